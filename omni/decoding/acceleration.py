"""Faster steps of Thinkers and Talkers: compiled, and with weights of 8 bits."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from omni.decoding.sampling_graph import choose_in_frame
from omni.devices import has_compiler
from omni.errors import UserError
from omni.layers.int8_linear import Int8Linear, quantize_linears
from omni.layers.transformer import Transformer
from omni.models.talker import Talker
from omni.models.thinker import Thinker

INT8_ROWS = Int8Linear.MOST_ROWS  # largest number of rows that are multiplied by weights of 8 bits
# Positions of a dummy prompt, and numbers of rows: a size that the model has too would be taken for its own, and fixed.
_START = 17
_ROWS = (1, 7)


def accelerate(models: Iterable[nn.Module | None], *, compile: bool = False, int8: bool = False) -> None:
    """Makes the decoding steps of Thinkers and Talkers faster, in place; other models stay as they are.

    Args:
        models: Models in eval mode, on their device.
        compile: Compile the steps: about 15 seconds for each model and for one row and several, less when PyTorch finds
            the code in its cache on the disk. Logits differ by rounding, so sampled tokens may differ.
        int8: Multiply single positions by weights of 8 bits (see `Int8Linear`). Logits differ by the rounding of
            weights.

    Raises:
        UserError: If there is no compiler, no model or layer that this is for, or weights of 8 bits are asked for
            elsewhere than on a CPU.
    """
    steps = [model for model in models if isinstance(model, Thinker | Talker)]
    if (compile or int8) and not steps:
        raise UserError("--compile and --int8 are for omni's own Thinker and Talker, and there is none: leave them out")
    for model in steps:
        kind = next(model.parameters()).device.type
        if int8 and kind != "cpu":
            raise UserError(
                f"--int8 is for models on a CPU, and these are on {kind}: leave it out, or give --device cpu"
            )
        if compile and not has_compiler(kind):
            if kind == "cuda":
                raise UserError("--compile needs Triton, for this GPU, and a C compiler: install both, or leave it out")
            raise UserError("--compile needs a C++ compiler, and none was found: install g++, or name one in CXX")
        if int8 and not quantize_linears(model):
            raise UserError(
                f"--int8 is for layers whose inputs are a multiple of {Int8Linear.BLOCK}, and the "
                f"{type(model).__name__} has none: leave it out"
            )
        if compile:
            _compile(model)


def _compile(model: Thinker | Talker) -> None:
    model.transformer.compile_decoding()
    if isinstance(model, Talker):
        # A function for each Talker: PyTorch limits how often one function is compiled.
        def choice(
            talker: Talker, state: Tensor, draws: Tensor, options: Tensor, filtered: bool
        ) -> tuple[Tensor, Tensor]:
            return choose_in_frame(talker, state, draws, options, filtered=filtered)

        model.frame_choice = torch.compile(choice, dynamic=True, fullgraph=True)
    for rows in _ROWS:
        _step(model, model.transformer, rows)


@torch.inference_mode()
def _step(model: Thinker | Talker, transformer: Transformer, rows: int) -> None:
    """A first step of some rows: now, and not when somebody waits for an answer."""
    like = transformer.norm.weight
    cache = transformer.new_cache(rows, 2 * _START)
    for time in (_START, 1):
        state = transformer(like.new_zeros(rows, time, transformer.dim), cache=cache).hidden[:, -1]
        cache.advance(time)
    if isinstance(model, Talker) and model.frame_choice is not None:
        draws, options = like.new_full((rows, model.num_codebooks + 1), 0.5), like.new_ones(3, 3)
        model.frame_choice(model, state, draws, options, False)
