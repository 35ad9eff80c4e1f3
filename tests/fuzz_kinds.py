"""The formats that omni reads, by name, for fuzzing."""

from collections.abc import Callable

from fuzz_data import audio, containers, conversations, image_lists, images, speech, text
from fuzz_models import chains, checkpoints, codes, configurations, folders, hugging_face, runs, sweeps
from guarded_cases import Kind

KINDS: dict[str, Callable[[], Kind]] = {
    kind.__name__: kind
    for kind in (
        speech, conversations, image_lists, text, audio, containers, images, codes, checkpoints, folders, hugging_face,
        chains, sweeps, configurations, runs,
    )
}  # fmt: skip
