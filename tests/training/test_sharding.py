"""Two ranks with sharded weights, gradients and optimizer states take the same steps as one process."""

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from processes import Ranks
from torch.utils._pytree import tree_map
from toy_runs import RUN, same, weights
from two_ranks import STEPS, STILL, TWO, compare, media_apart, shares

from omni.checkpoints.checkpoint import Checkpoint
from omni.distributed import local_share
from omni.training.device_share import share_of_device
from omni.training.sharding import TAKES_UNUSED

SHARDED = {"trainer__strategy": "model_parallel"}
EXPERTS = {
    "model__init_args__thinker__init_args__num_experts": 4,
    "model__init_args__thinker__init_args__experts_per_token": 2,
}


class TestTwoRanksEqualOne:
    def test_dense(self, fit):
        accumulated = {"trainer__accumulate_grad_batches": 2, "trainer__val_check_interval": 10}
        compare(fit, {**STEPS, **STILL, **accumulated}, shares, each=SHARDED)

    def test_experts_by_muon(self, fit):
        compare(fit, {**STEPS, **STILL, **EXPERTS, "model__init_args__optimizer": "muon"}, each=SHARDED)

    @pytest.mark.skipif(not TAKES_UNUSED, reason="this PyTorch shards no stage whose weights may go unused")
    def test_stage_e_with_a_rank_without_images_and_audio(self, fit_omni):
        compare(fit_omni, STEPS, media_apart, each=SHARDED)


def each_step(**overrides):
    muon = {"model__init_args__optimizer": "muon", "model__init_args__schedule": "constant"}
    return {**STEPS, **TWO, **SHARDED, **EXPERTS, **muon, **overrides}


def test_a_checkpoint_is_an_ordinary_one_and_resumes_on_any_number_of_ranks(fit, caplog):
    def run(steps, *extra):
        with Ranks(partial(fit, "fit", *extra, **each_step(trainer__max_steps=steps))) as ranks:
            assert ranks.wait() == [0, 0], ranks.output(0) + ranks.output(1)

    def one(steps, *extra):
        fit("fit", *extra, **each_step(trainer__max_steps=steps, trainer__devices=1, trainer__strategy="auto"))

    one(5)
    alone = Checkpoint(RUN / "last.ckpt").content
    RUN.rename("alone")
    run(5)
    found = Checkpoint(RUN / "last.ckpt").content
    kinds = described(alone), described(found)
    assert kinds[0] == kinds[1]
    assert found["lineage"]["stage"] == "ThinkerPretraining"
    assert Path(RUN / "last.ckpt").stat().st_size < 1.1 * Path("alone/last.ckpt").stat().st_size
    shutil.copytree(RUN, "start")
    run(8, "--ckpt_path=start/last.ckpt")
    resumed = weights(RUN / "last.ckpt")
    shutil.rmtree(RUN)
    run(8)
    assert same(resumed, weights(RUN / "last.ckpt"))
    assert not same(resumed, found["state_dict"])
    with pytest.warns(UserWarning, match="its batches or its seed have changed"):
        one(8, "--ckpt_path=start/last.ckpt")


def described(value):
    """Keys and shapes of the weights and optimizer states in a checkpoint."""
    kept = {name: value[name] for name in ("state_dict", "optimizer_states", "parts")}
    return tree_map(lambda leaf: (leaf.dtype, leaf.shape) if isinstance(leaf, torch.Tensor) else None, kept)


def local_bytes(tensors):
    return sum(share.numel() * share.element_size() for share in map(local_share, tensors))


def held(run):
    """Bytes of the weights and of the optimizer states that this process holds after a run."""
    cli = run()
    states = [value for state in cli.trainer.optimizers[0].state.values() for value in state.values() if value.dim()]
    return local_bytes([*cli.model.parameters(), *cli.model.buffers()]), local_bytes(states)


def test_the_planned_memory_of_a_device_is_that_of_its_shards(fit):
    odd = {"model__init_args__thinker__init_args__vocab_size": 289, "trainer__val_check_interval": 1}
    options = {**STEPS, **odd, "trainer__max_steps": 1}
    cli = fit(**options)
    with Ranks(partial(held, partial(fit, **{**options, **TWO, **SHARDED})), results=True) as ranks:
        first, second = ranks.results()
    whole, state = held(lambda: cli)
    share = share_of_device(cli.model, strategy="model_parallel", devices=2, optimizer_state=state)
    assert share.weights == first[0]
    assert share.optimizer_state == first[1]
    assert first[0] + second[0] == whole
    assert second[0] < first[0] < 0.6 * whole
    blocks = [sum(p.numel() for p in block.parameters()) * 4 for block in cli.model.thinker.transformer.blocks]
    outside = sum(p.numel() for p in cli.model.parameters()) * 4 - sum(blocks)
    assert share.exchange == 2 * outside + 3 * blocks[0]
    alone = share_of_device(cli.model, strategy="ddp", devices=2, optimizer_state=state)
    assert (alone.weights, alone.optimizer_state, alone.exchange) == (whole, state, alone.gradients)


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"trainer__strategy": "deepspeed_stage_2", "trainer__devices": 2}, "deepspeed_stage_2 is not supported"),
            ({"trainer__strategy": "fsdp", "trainer__devices": 2}, "fsdp is not supported: give auto, ddp or model_p"),
            ({**SHARDED, "trainer__devices": 1}, "model_parallel needs several devices"),
            (
                {**SHARDED, "trainer__devices": 2, "trainer__precision": "16-mixed"},
                "does not support trainer.precision 16-mixed",
            ),
            ({**SHARDED, "trainer__devices": 2, "model__init_args__compile": "true"}, "does not support compilation"),
            ({"trainer__strategy": "no_such", "trainer__devices": 2}, "no_such is not supported"),
            ({"trainer__accelerator": "gpu"}, "No supported gpu backend found"),
            ({"trainer__accelerator": "abacus"}, "abacus"),
            ({"trainer__devices": 0}, "devices"),
            ({"trainer__devices": "many"}, "devices"),
        ],
    )
    def test_refused_before_training_with_the_run_unchanged(self, trained, fit, fails, options, message):
        before = {path: path.read_bytes() for path in RUN.iterdir() if path.is_file()}
        assert message in fails(fit, **options)
        assert {path: path.read_bytes() for path in RUN.iterdir() if path.is_file()} == before

    def test_stage_e_with_a_pytorch_that_needs_all_gradients(self, fit_omni, fails, monkeypatch):
        monkeypatch.setattr("omni.training.sharding.TAKES_UNUSED", False)
        message = fails(fit_omni, trainer__devices=2, **SHARDED)
        assert "model_parallel cannot train OmniTuning with PyTorch" in message

    def test_another_model_parallel_strategy(self, fit, fails):
        message = fails(fit, trainer__strategy="lightning.pytorch.strategies.ModelParallelStrategy", trainer__devices=2)
        assert "ModelParallelStrategy is not supported: give auto, ddp or model_parallel" in message

    def test_a_stage_whose_parts_cannot_be_sharded(self, fit_codec, fails):
        message = fails(fit_codec, trainer__devices=2, **SHARDED)
        assert "model_parallel cannot shard the parts of CodecTraining" in message
