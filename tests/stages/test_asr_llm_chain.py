"""The second recipe's three runs, each from the previous one, for each encoder, language model and projector."""

import json
import os
from itertools import cycle, product
from pathlib import Path

import pytest
import toy_pretrained as toy
from toy_asr_llm import metric, same, weights_of
from toy_omni import PROJECTORS

THINKER = "model__init_args__thinker__init_args__"
LIVELY = {"model__init_args__lr": "2e-2", "trainer__max_steps": 12, "trainer__val_check_interval": 12}
COMBINATIONS = [
    pytest.param(*pair, kind, marks=[] if number == 0 else pytest.mark.slow)
    for number, (pair, kind) in enumerate(
        zip(product(toy.LLMS, toy.ENCODERS), cycle(("mlp", *PROJECTORS)), strict=False)
    )
]


@pytest.mark.parametrize(("llm", "encoder", "projector"), COMBINATIONS)
def test_projector_then_lora_then_both(fit_llm, llm, encoder, projector):
    """Frozen weights stay bit for bit, only trained parts get gradients, and the loss falls with every run."""
    toy.llm(Path("llm"), llm)
    toy.encoder(Path("encoder"), encoder)
    run = {"model__init_args__audio_projector": PROJECTORS[projector].__name__}
    lora = {**run, f"{THINKER}lora_targets": '["c_attn"]' if llm == "gpt2" else '["q_proj", "v_proj"]'}
    begun = fit_llm(trainer__max_steps=1, trainer__val_check_interval=1, **run)
    before = weights_of(begun)
    cli = fit_llm(**LIVELY, **run)
    after = weights_of(cli)
    assert same(before["thinker"], after["thinker"])
    assert same(before["audio_encoder"], after["audio_encoder"])
    assert not same(before["audio_projector"], after["audio_projector"])
    held = {p for group in cli.trainer.optimizers[0].param_groups for p in group["params"]}
    assert held == {*cli.model.audio_projector.parameters()}
    assert all(p.grad is None for name in ("thinker", "audio_encoder") for p in cli.model.part(name).parameters())
    modes = {name: {module.training for module in part.modules()} for name, part in cli.model.parts.items()}
    assert modes == {"thinker": {False}, "audio_encoder": {False}, "audio_projector": {True}}

    second = fit_llm("asr_llm_lora", **lora, **LIVELY)
    assert same(after["audio_projector"], weights_of(second)["audio_projector"])
    trained = {name for name, p in second.model.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith("thinker.") and "lora_" in name for name in trained)
    stayed = {name: w for name, w in weights_of(second)["thinker"].items() if "lora_" not in name}
    stayed = {name.replace(".base_layer", ""): w for name, w in stayed.items()}
    assert same(stayed, before["thinker"])
    assert {module.training for module in second.model.thinker.modules()} == {True}

    third = fit_llm("asr_llm_tune", **lora, **LIVELY)
    trained = {name.split(".")[0] for name, p in third.model.named_parameters() if p.requires_grad}
    assert trained == {"thinker", "audio_projector"}
    assert not same(after["audio_projector"], weights_of(third)["audio_projector"])
    assert same(before["audio_encoder"], weights_of(third)["audio_encoder"])
    losses = [metric(one, "val/loss") for one in (begun, cli, second, third)]
    assert losses == sorted(losses, reverse=True)
    assert losses[3] < losses[0] - 0.2
    assert third.model.ancestors["thinker"]["ancestors"]["audio_projector"]["stage"] == "OmniTuning"


def chained(fit_llm, manifests, count):
    """The loss before the three runs and after each of them, on some recordings of two manifests."""
    for split, source in zip(("train", "val"), manifests, strict=True):
        lines = source.read_text(encoding="utf-8").splitlines()[: count // (4 if split == "val" else 1)]
        rows = [json.loads(line) for line in lines]
        rows = [{**row, "audio": str(source.parent / row["audio"])} for row in rows]
        Path(f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    run = {"data__init_args__train": "train.jsonl", "data__init_args__val": "val.jsonl"}
    run |= {"data__init_args__max_tokens": 512, "data__init_args__batch_tokens": 1024}
    begun = fit_llm(trainer__max_steps=1, trainer__val_check_interval=1, **run)
    assert all(answer == answer.lower() for batch in begun.datamodule.val_dataloader() for answer in batch.answers)
    chain = [fit_llm(config, **run, **LIVELY) for config in ("asr_llm", "asr_llm_lora", "asr_llm_tune")]
    return [metric(cli, "val/loss") for cli in (begun, *chain)]


@pytest.mark.skipif("OMNI_DATA" not in os.environ, reason="real data: set OMNI_DATA to a folder that holds manifests/")
def test_all_three_runs_on_real_recordings(fit_llm):
    """AN4 as in its manifests: in capitals, lower-cased by the configuration."""
    manifests = Path(os.environ["OMNI_DATA"]) / "manifests"
    losses = chained(fit_llm, [manifests / "an4_train.jsonl", manifests / "an4_test.jsonl"], 48)
    assert losses == sorted(losses, reverse=True)
    assert losses[3] < 0.9 * losses[0]
