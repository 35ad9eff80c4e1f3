"""The fingerprint of a configuration covers what changes the weights, and nothing else."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from jsonargparse import ArgumentParser

import omni.training.lightning_cli  # noqa: F401  imports all stages and data modules
from omni.data.loading.resumable import ResumableData
from omni.models.part import Part
from omni.stages.stage import Stage
from omni.training.fingerprint import config_fingerprint

# Arguments that change the weights, or which of them are best: a new argument is listed here or in `no_effect`.
EFFECTIVE = {
    "Stage": "optimizer lr betas weight_decay schedule warmup_steps final_lr frozen",
    "SpeechRecognition": "audio_encoder intermediate_ctc_weight consistency beam",
    "CodecTraining": "codec audio_encoder commitment quality_utterances",
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


KINDS = {kind.__name__: kind for base in (Stage, ResumableData) for kind in shipped(base)}


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
