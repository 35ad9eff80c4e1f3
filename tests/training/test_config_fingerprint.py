"""The fingerprint of a configuration covers what changes the weights, and nothing else.

`defaults.json` beside this file holds the defaults of all arguments. `python tests/training/test_config_fingerprint.py`
writes it.
"""

import inspect
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser

import omni.models.pretrained.speaker_encoder  # the part that no stage has
import omni.training.lightning_cli  # noqa: F401  imports all stages, data modules and other parts
from omni.data.loading.resumable import ResumableData
from omni.models.part import Part
from omni.stages.stage import Stage
from omni.training.fingerprint import _VERSION, _defaults, config_fingerprint

# Arguments that change the weights, or which of them are best: a new argument is listed here or in `no_effect`.
EFFECTIVE = {
    "Stage": "optimizer lr betas weight_decay schedule warmup_steps final_lr frozen",
    "SpeechRecognition": "audio_encoder intermediate_ctc_weight consistency beam",
    "CodecTraining": "codec audio_encoder commitment decoder_only quality_utterances",
    "OmniTuning": "thinker vision_encoder vision_projector audio_encoder audio_projector rates projector_steps "
    "frame_dropout prompt_weight balance excluded_tasks answer_tokens",
    "TalkerTraining": "talker thinker speech_codec recognizer codebook_weights advance_weight sentences sampling beam",
    "ThinkerPretraining": "thinker balance",
    "VisionPretraining": "vision_encoder classifier contrast text_encoder thinker label_smoothing "
    "classification_weight contrast_weight",
    "VocoderTraining": "vocoder discriminators codec audio_encoder codec_share adversarial_start weights "
    "quality_utterances",
    "CodesData": "train val codec recognizer val_fraction speakers silence min_score min_speed max_speed batch_seconds "
    "max_batch_rows min_duration max_duration text_column columns seed",
    "ConversationData": "train val tokenizer replay image_size fit num_mels template instructions labels text_column "
    "columns noise_share max_tokens batch_tokens max_batch_rows streaming seed",
    "ImageData": "train val image_size fit load_size augmentation batch_size val_batch_size val_fraction tokenizer "
    "vocab_size caption_tokens root image_folder columns streaming seed",
    "SpeechData": "train val val_speakers val_fraction units vocab_size min_confidence characters normalization "
    "num_mels batch_seconds max_batch_rows min_duration max_duration crop audio augmentation text_column columns "
    "streaming seed",
    "TextData": "train val tokenizer vocab_size context batch_size val_fraction val_split document_separator "
    "text_column columns streaming seed",
}


def shipped(base: type) -> Iterator[type]:
    for kind in base.__subclasses__():
        if kind.__module__.startswith("omni.") and not inspect.isabstract(kind):
            yield kind
        yield from shipped(kind)


KEPT = Path(__file__).with_name("defaults.json")
KINDS = {kind.__name__: kind for base in (Stage, ResumableData) for kind in shipped(base)}


def defaults_of(kind: type) -> dict[str, Any]:
    """The defaults of a class's arguments, as JSON has them."""
    return json.loads(json.dumps(_defaults(f"{kind.__module__}.{kind.__qualname__}"), default=str))


# By name of the class, each read at its use.
DEFAULTS = {
    kind.__name__: partial(defaults_of, kind) for base in (Stage, ResumableData, Part) for kind in shipped(base)
}


def arguments(kind: type) -> set[str]:
    return {*ArgumentParser().add_class_arguments(kind, fail_untyped=False)}


def fingerprint(kind: type, **init_args: Any) -> str:
    made = {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": init_args}
    key = "model" if issubclass(kind, Stage) else "data"
    config: dict[str, Any] = {"model": None, "data": None, "init_from": {}, "seed_everything": 0, key: made}
    budget = ("max_steps", "max_epochs", "max_time", "accumulate_grad_batches", "limit_train_batches")
    more = ("overfit_batches", "gradient_clip_val", "gradient_clip_algorithm")
    return config_fingerprint({**config, "trainer": dict.fromkeys((*budget, *more))})


def test_all_stages_and_data_modules_are_known():
    assert {"Stage", *KINDS} == EFFECTIVE.keys()


@pytest.mark.parametrize("name", sorted(KINDS))
def test_each_argument_is_in_the_fingerprint_or_has_no_effect(name):
    kind = KINDS[name]
    effective = {*EFFECTIVE[name].split(), *(EFFECTIVE["Stage"].split() if issubclass(kind, Stage) else ())}
    before = dict.fromkeys(arguments(kind), "before") | {"streaming": False}
    if "streaming" not in arguments(kind):
        del before["streaming"]
    same = fingerprint(kind, **before)
    changed = {each for each in before if fingerprint(kind, **{**before, each: "after"}) != same}
    assert changed == effective
    for base in kind.__mro__:
        assert vars(base).get("no_effect", frozenset()) <= arguments(kind), "declared, and no argument"


@pytest.mark.parametrize("argument", ["num_workers", "shuffle_buffer"])
@pytest.mark.parametrize("name", ["TextData", "SpeechData", "ImageData", "ConversationData"])
def test_shuffling_arguments_are_included_for_streams(name, argument):
    for streaming in (False, True):
        one, other = (fingerprint(KINDS[name], streaming=streaming, **{argument: number}) for number in (0, 4))
        assert (one != other) == streaming


def test_an_argument_with_its_default_is_left_out():
    kind = KINDS["SpeechData"]
    same = fingerprint(kind, train="a.jsonl")
    defaults = DEFAULTS["SpeechData"]()
    assert fingerprint(kind, **{**defaults, "train": "a.jsonl"}) == same
    augmentation = defaults["augmentation"]
    assert fingerprint(kind, train="a.jsonl", augmentation=augmentation) == same
    assert fingerprint(kind, train="a.jsonl", augmentation={**augmentation, "rooms": 0.5}) != same
    assert fingerprint(kind, train="a.jsonl", augmentation={**augmentation, "telephone": 0.5}) != same
    assert fingerprint(kind, train="a.jsonl", val_fraction=0.2) != same


def test_a_dictionary_with_fewer_entries_than_the_default_is_another_value():
    kind = KINDS["VocoderTraining"]
    weights = DEFAULTS["VocoderTraining"]()["weights"]
    fewer = dict(list(weights.items())[:-1])
    assert fingerprint(kind, weights=weights) == fingerprint(kind)
    assert fingerprint(kind, weights=fewer) != fingerprint(kind)


def of_groups(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults with those of an `augmentation` each by itself: a new one of them leaves the fingerprint as it is."""
    group = defaults.get("augmentation") or {}
    return {**defaults, "augmentation": None, **{f"augmentation.{name}": value for name, value in group.items()}}


def test_defaults_change_only_with_the_version_of_the_fingerprint():
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    current = {"version": _VERSION, **{name: find() for name, find in DEFAULTS.items()}}
    if current != kept and kept["version"] == _VERSION:
        pairs = {name: (of_groups(current[name]), of_groups(kept[name])) for name in DEFAULTS.keys() & kept.keys()}
        changed = {
            f"{name}.{argument}"
            for name, (now, before) in pairs.items()
            for argument in now.keys() & before.keys()
            if now[argument] != before[argument]
        }
        assert not changed, "finished runs would seem up to date: increase _VERSION in omni/training/fingerprint.py"
    assert current == kept, "run python tests/training/test_config_fingerprint.py"


def test_arguments_of_parts_inside_a_stage_are_included():
    def of(**options: Any) -> str:
        return fingerprint(
            KINDS["ThinkerPretraining"],
            thinker={"class_path": "omni.models.thinker.Thinker", "init_args": {"dim": 8, **options}},
        )

    assert len({of(), of(gradient_checkpointing=True), of(gradient_checkpointing=False)}) == 1
    assert of(dim=16) != of()
    with_it = [kind for kind in shipped(Part) if "gradient_checkpointing" in arguments(kind)]
    assert len(with_it) > 5


if __name__ == "__main__":
    content = {"version": _VERSION, **{name: find() for name, find in sorted(DEFAULTS.items())}}
    KEPT.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
