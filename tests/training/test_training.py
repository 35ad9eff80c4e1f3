"""`omni fit`: the files of a run; stopping and resuming changes nothing."""

import resource
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from processes import start
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_runs import RUN, callback, same, scalars, step_of, weights

import omni
from omni.checkpoints.checkpoint import Checkpoint
from omni.layers.transformer import Block
from omni.models.thinker import Thinker
from omni.optim.precision import best_precision
from omni.stages import compilation
from omni.training.callbacks.checkpointing import AtomicCheckpointIO
from omni.training.callbacks.progress import StepBar


class TestRun:
    def test_leaves_two_checkpoints_and_its_curves(self, fit):
        fit()
        assert sorted(path.name for path in RUN.glob("*.ckpt")) == ["best.ckpt", "last.ckpt"]
        names = ("loss", "perplexity", "bits_per_byte")
        curves = {name: scalars(RUN, f"val/{name}") for name in names}
        assert all(sorted(curve) == [2, 5] for curve in curves.values())
        assert curves["perplexity"][5] == pytest.approx(torch.tensor(curves["loss"][5]).exp().item(), rel=1e-4)
        assert min(scalars(RUN, "train/tokens_per_second").values()) > 0
        assert 0 < scalars(RUN, "train/mfu")[5] < 1

    def test_validation_writes_continuations(self, fit):
        fit(model__init_args__sample_prompts='["the red"]')
        events = EventAccumulator(str(RUN))
        events.Reload()
        text = events.Tensors("val/samples/text_summary")[-1].tensor_proto.string_val[0].decode()
        assert text.startswith("**the red** ")
        assert len(text) > len("**the red** ")

    def test_learns(self, fit):
        fit(trainer__max_steps=60, trainer__val_check_interval=30, model__init_args__lr=3e-3)
        losses = scalars(RUN, "val/loss")
        assert losses[59] < losses[29] < 4.5 < torch.tensor(288.0).log()

    def test_a_new_run_keeps_the_earlier_one(self, fit):
        fit()
        before = weights(RUN / "best.ckpt")
        fit(seed_everything=1)
        assert same(before, weights(RUN / "earlier/1/best.ckpt"))
        assert not same(before, weights(RUN / "best.ckpt"))

    def test_no_stage_keeps_hyper_parameters(self):
        """`OmniCLI` saves none, which saves time; the recipes of the parts are in `parts`."""
        files = [path for path in Path(omni.__path__[0]).rglob("*.py") if path.name != "lightning_cli.py"]
        assert len(files) > 100
        assert not [path for path in files if "save_hyperparameters" in path.read_text(encoding="utf-8")]

    def test_checkpoint_is_self_contained(self, fit, workplace):
        cli = fit()
        (workplace / "corpus.txt").unlink()
        checkpoint = Checkpoint(RUN / "last.ckpt")
        thinker, tokenizer = checkpoint.part("thinker", Thinker), checkpoint.tokenizer
        tokens = torch.tensor([[1, *tokenizer.encode("the red star")]])
        cli.model.eval()
        with torch.no_grad():
            assert torch.equal(thinker(tokens).logits, cli.model.thinker(tokens).logits)
        lineage = Checkpoint(RUN / "last.ckpt").lineage
        assert lineage["stage"] == "ThinkerPretraining"
        assert lineage["step"] == 6
        assert lineage["ancestors"] == {}
        assert lineage["data"]
        assert lineage["tokenizer"] == tokenizer.fingerprint

    @pytest.mark.parametrize("optimizer", ["adamw", "muon"])
    @pytest.mark.parametrize("schedule", ["cosine", "linear"])
    def test_optimizers_and_schedules_by_config(self, fit, optimizer, schedule):
        fit(model__init_args__optimizer=optimizer, model__init_args__schedule=schedule, model__init_args__final_lr=0.5)
        tag = "lr-MuonWithAdamW/pg1" if optimizer == "muon" else "lr-AdamW/pg1"
        rates = scalars(RUN, tag)
        assert rates[0] == pytest.approx(0.5e-3)
        assert rates[1] == pytest.approx(1e-3)
        assert rates[5] < rates[3] < 1e-3

    @pytest.mark.parametrize("precision", ["bf16-mixed", "32-true", "null"])
    def test_precision_by_config(self, fit, precision):
        cli = fit(trainer__precision=precision, trainer__max_steps=3)
        assert cli.trainer.precision == (best_precision("cpu") if precision == "null" else precision)
        assert all(weight.dtype == torch.float32 for weight in cli.model.parameters())
        assert scalars(RUN, "val/loss")[2] < 6

    @pytest.mark.parametrize(
        ("precision", "instead"),
        [("bf16-true", "bf16-mixed"), ("16-true", "16-mixed"), ("64", "32-true"), ("transformer-engine", "bf16-mixed")],
    )
    def test_unsupported_precisions_are_refused_before_training(self, fit, fails, precision, instead):
        assert f"is not supported: use {instead};" in fails(fit, trainer__precision=precision)
        assert not RUN.exists()

    def test_lightning_callbacks_by_config(self, fit):
        stopping = callback("EarlyStopping", monitor="val/loss", min_delta=100, patience=1)
        finder = callback("LearningRateFinder", num_training_steps=40, max_lr=0.1)
        cli = fit(
            "fit",
            stopping,
            finder,
            trainer__profiler="simple",
            trainer__max_steps=100,
        )
        assert cli.trainer.global_step == 6  # two validations without an improvement of 100
        assert cli.model.lr != 1e-3

    @pytest.mark.parametrize("verb", ["validate", "test"])
    def test_measures_a_checkpoint(self, fit, verb):
        fit()
        cli = fit(verb, "--ckpt_path=best", **({"data__init_args__test": "corpus.txt"} if verb == "test" else {}))
        measured = cli.trainer.callback_metrics
        prefix = "val" if verb == "validate" else verb
        if verb == "validate":
            assert measured["val/loss"].item() == pytest.approx(min(scalars(RUN, "val/loss").values()), rel=1e-5)
        assert measured[f"{prefix}/bits_per_byte"] > 0

    def test_predict_writes_losses(self, fit):
        fit()
        fit("predict", "--ckpt_path=best", data__init_args__test="corpus.txt")
        losses = torch.load(RUN / "predictions.pt", weights_only=True)
        assert losses[0].shape == (4, 16)
        assert losses[0].min() >= 0


class TestResume:
    @pytest.mark.parametrize("optimizer", ["adamw", "muon"])
    def test_equals_never_stopped(self, fit, optimizer):
        options = {
            "trainer__max_steps": 40,
            "trainer__val_check_interval": 10,
            "model__init_args__optimizer": optimizer,
            "model__init_args__thinker__init_args__dropout": 0.1,
        }
        fit(**options)
        whole, curve = weights(RUN / "last.ckpt"), scalars(RUN, "train/loss")
        with pytest.raises(SystemExit) as stop:
            fit(
                "fit",
                callback("toy_runs.SignalAt", step=20, signum=15),
                **options,
            )
        assert stop.value.code == 128 + signal.SIGTERM
        stopped = Checkpoint(RUN / "last.ckpt").lineage["step"]
        assert 20 <= stopped <= 21
        fit("fit", "--ckpt_path=last", **options)
        assert same(whole, weights(RUN / "last.ckpt"))
        resumed = scalars(RUN, "train/loss")
        assert len(resumed) >= 39  # the value of the last step before the stop may not be written
        assert resumed.items() <= curve.items()

    def test_survives_sigkill_at_any_moment(self, fit, workplace):
        options = {"trainer__max_steps": 16, "trainer__val_check_interval": 5}
        frequent = callback("omni.training.callbacks.StageCheckpoint", filename="last", every_n_train_steps=1)
        fit("fit", frequent, **options)
        whole = weights(RUN / "last.ckpt")
        RUN.rename("whole")
        child = start(partial(fit, "fit", frequent, **options), output=workplace / "child.txt")
        while step_of(RUN / "last.ckpt") < 4 and child.exitcode is None:
            time.sleep(0.002)
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL, (workplace / "child.txt").read_text(encoding="utf-8")
        fit("fit", frequent, "--ckpt_path=last", **options)
        assert same(whole, weights(RUN / "last.ckpt"))

    def test_a_checkpoint_at_a_validation_holds_its_result(self, fit, workplace):
        """Otherwise a run killed afterwards could replace the best checkpoint by a worse one."""
        every = callback("omni.training.callbacks.StageCheckpoint", filename="last", every_n_train_steps=3)
        fit("fit", every, callback("toy_runs.KeepLast", step=4))
        kept = Checkpoint(RUN / "kept.ckpt").content
        assert kept["lineage"]["step"] == 3
        assert kept["metrics"]["val/loss"] == pytest.approx(scalars(RUN, "val/loss")[2], rel=1e-6)
        states = [state for name, state in kept["callbacks"].items() if "'monitor': 'val/loss'" in name]
        assert [float(state["best_model_score"]) for state in states] == [kept["metrics"]["val/loss"]]

    def test_ctrl_c_exits_cleanly(self, fit, capfd):
        with pytest.raises(SystemExit) as stop:
            fit(
                "fit",
                callback("toy_runs.SignalAt", step=1, signum=2),
            )
        assert stop.value.code == 128 + signal.SIGINT
        output = capfd.readouterr()
        assert "stopped at step 2 by SIGINT; resume with --ckpt_path" in output.out
        assert "Traceback" not in output.err

    @pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
    def test_a_second_signal_ends_at_once_as_the_first_does_outside_of_training(self, fit, capfd, signum):
        twice = callback("toy_runs.SignalTwice", step=4, signum=int(signum))
        with pytest.raises(SystemExit) as stop:
            fit("fit", twice)
        assert stop.value.code == 128 + signum
        assert f"omni: stopped by {signum.name}\n" in capfd.readouterr().out
        assert Checkpoint(RUN / "best.ckpt").lineage["step"] == 3
        with pytest.raises(SystemExit) as stop:
            fit("predict", twice, "--ckpt_path=best", data__init_args__test="corpus.txt")
        assert stop.value.code == 128 + signum
        assert f"omni: stopped by {signum.name}\n" in capfd.readouterr().out
        assert not (RUN / "predictions.pt").exists()

    def test_a_stop_before_a_validation_waits_for_it(self, fit, capfd):
        with pytest.raises(SystemExit):
            fit("fit", callback("toy_runs.SignalAt", step=2, signum=2))
        assert "stopped at step 4 by SIGINT" in capfd.readouterr().out
        assert Checkpoint(RUN / "best.ckpt").lineage["step"] == 3

    def test_last_without_a_run_is_refused(self, fit, fails):
        assert "last.ckpt does not exist" in fails(fit, "fit", "--ckpt_path=last")

    def test_user_config_wins_over_the_checkpoint(self, fit):
        fit()
        cli = fit("fit", "--ckpt_path=last", trainer__max_steps=7, model__init_args__weight_decay=0.3)
        assert cli.model.weight_decay == 0.3
        assert cli.trainer.global_step == 7


class TestRanks:
    """Properties of runs on several ranks and other devices, checked in one process."""

    def test_every_rank_calls_the_same_collectives(self, fit, monkeypatch):
        """A collective that only rank 0 calls deadlocks. One process acts as rank 0, then as another rank."""
        calls: dict[bool, list[str]] = {True: [], False: []}
        for name in ("broadcast", "reduce", "barrier", "all_gather", "reduce_boolean_decision"):
            collective = getattr(SingleDeviceStrategy, name)

            def recorded(self, *args, name=name, collective=collective, **kwargs):
                calls[self.is_global_zero].append(name)
                return collective(self, *args, **kwargs)

            monkeypatch.setattr(SingleDeviceStrategy, name, recorded)
        for first in (True, False):
            monkeypatch.setattr(SingleDeviceStrategy, "is_global_zero", first)
            fit(seed_everything=int(first), trainer__max_steps=4)
        assert len(calls[True]) > 10
        assert calls[False] == calls[True]

    def test_validation_at_time_intervals_is_refused(self, fit, fails):
        options = {"trainer__devices": 2, "trainer__strategy": "ddp", "trainer__val_check_interval": "00:00:00:01"}
        assert "trainer.val_check_interval is a duration" in fails(fit, **options)

    def test_a_checkpoint_from_a_gpu_is_read_on_the_cpu(self, workplace, monkeypatch):
        monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        AtomicCheckpointIO().save_checkpoint({"weights": torch.arange(3)}, workplace / "gpu.ckpt")
        if not torch.cuda.is_available():
            with pytest.raises(RuntimeError, match="Attempting to deserialize object on a CUDA device"):
                torch.load(workplace / "gpu.ckpt")
        found = AtomicCheckpointIO().load_checkpoint(workplace / "gpu.ckpt")["weights"]
        assert found.device.type == "cpu"
        assert found.tolist() == [0, 1, 2]


class TestFailure:
    def test_non_finite_loss_names_step_and_rows(self, fit, fails):
        message = fails(fit, model__init_args__lr=1e30, model__init_args__warmup_steps=0, trainer__gradient_clip_val=0)
        assert "not finite at step" in message
        assert "rows [" in message

    def test_full_disk_keeps_the_previous_checkpoint(self, fit, fails):
        fit()
        before = (RUN / "last.ckpt").read_bytes()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
        try:
            message = fails(fit, "fit", "--ckpt_path=last", trainer__max_steps=12)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "could not be written" in message
        assert (RUN / "last.ckpt").read_bytes() == before
        assert [path.name for path in RUN.glob(".*")] == [".omni-run"]


class TestOptimisation:
    def test_accumulation_equals_the_large_batch(self, fit):
        options = {"model__init_args__optimizer": "adamw", "trainer__val_check_interval": 6}
        # A context longer than most documents: rows and micro-batches have unequal numbers of scored tokens.
        options |= {"data__init_args__document_separator": "\n", "data__init_args__val_split": "documents"}
        big = fit(**options, data__init_args__batch_size=8, trainer__max_steps=4).model
        small = fit(
            **{**options, "trainer__val_check_interval": 24},
            data__init_args__batch_size=2,
            trainer__accumulate_grad_batches=4,
            trainer__max_steps=4,
        ).model
        for name, weight in big.named_parameters():
            torch.testing.assert_close(small.get_parameter(name), weight, rtol=1e-3, atol=2e-5)

    @pytest.mark.parametrize("num_experts", [0, 4])
    def test_a_step_never_waits_for_the_device(self, fit, num_experts):
        """On the meta device tensors have no values: anything that makes the host wait for a value raises.

        Covers `.item()`, `bool(tensor)`, `nonzero` and masks as indices, but not what Lightning itself reads.
        """
        stage = fit(model__init_args__thinker__init_args__num_experts=num_experts).model
        batch = next(iter(stage.trainer.datamodule.train_dataloader()))
        optimizer = stage.trainer.optimizers[0]
        stage.to("meta").train()
        stage.trainer.log_every_n_steps = 50  # Lightning does not log at this step
        stage.log = stage.log_dict = lambda *args, **kwargs: None
        stage.training_step(type(batch)(*(value.to("meta") for value in batch)), 0).backward()
        stage.on_before_optimizer_step(optimizer)
        gradients = [parameter.grad for parameter in stage.parameters()]
        assert all(gradient is not None and gradient.device.type == "meta" for gradient in gradients)
        with pytest.raises(RuntimeError):  # meta tensors do raise
            float(stage.thinker.embedding.weight.sum())


class TestCompile:
    @pytest.fixture
    def compiled(self, monkeypatch) -> list[Block]:
        found: list[Block] = []
        monkeypatch.setattr(Block, "compile", lambda module, **options: found.append(module))
        return found

    def test_compiles_every_block_in_place(self, fit, compiled):
        cli = fit(model__init_args__compile=True, trainer__max_steps=1)
        assert compiled == [*cli.model.thinker.transformer.blocks]

    @pytest.mark.parametrize(
        ("parameters", "batches", "compiler", "expected"),
        [(0, 0, True, 1), (10**9, 0, True, 0), (0, 10**9, True, 0), (0, 0, False, 0)],
    )
    def test_auto_compiles_long_runs_of_large_parts(
        self, fit, compiled, monkeypatch, parameters, batches, compiler, expected
    ):
        monkeypatch.setattr(compilation, "_PARAMETERS", parameters)
        monkeypatch.setattr(compilation, "_BATCHES", {"cpu": batches})
        monkeypatch.setattr(compilation, "has_compiler", lambda kind: compiler)
        cli = fit(model__init_args__compile="auto", trainer__max_steps=1)
        assert len(compiled) == expected * len(cli.model.thinker.transformer.blocks)

    @pytest.mark.slow
    @pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
    @pytest.mark.filterwarnings(  # raised by the compiler itself
        "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:The .grad attribute:UserWarning"
    )
    def test_changes_no_result_and_resumes(self, fit):
        fit(model__init_args__schedule="constant")
        eager = scalars(RUN, "train/loss")
        fit(model__init_args__compile=True, model__init_args__schedule="constant")
        assert scalars(RUN, "train/loss") == pytest.approx(eager, rel=1e-4)
        assert "thinker.embedding.weight" in weights(RUN / "last.ckpt")
        whole = weights(RUN / "last.ckpt")
        fit(model__init_args__compile=True, model__init_args__schedule="constant", trainer__max_steps=2)
        fit("fit", "--ckpt_path=last", model__init_args__compile=True, model__init_args__schedule="constant")
        assert same(weights(RUN / "last.ckpt"), whole)


class TestInitFrom:
    def test_starts_from_the_parts_of_an_earlier_stage(self, fit, workplace):
        fit()
        first = RUN.rename("first")
        cli = fit(
            "fit",
            f"--init_from.thinker={first}/best.ckpt",
            trainer__max_steps=1,
            model__init_args__lr=1e-12,
            model__init_args__weight_decay=0,
        )
        before = weights(first / "best.ckpt")
        for name, weight in cli.model.state_dict().items():
            torch.testing.assert_close(weight, before[name], rtol=0, atol=1e-6)
        ancestor = Checkpoint(RUN / "last.ckpt").lineage["ancestors"]["thinker"]
        assert ancestor == Checkpoint(first / "best.ckpt").lineage

    def test_scales_of_each_head_are_kept(self, fit, workplace):
        shared = {"model__init_args__thinker__init_args__shared_qk_scales": True}
        fit(**dict.fromkeys(shared, False))
        first = RUN.rename("first")
        fit("fit", f"--init_from.thinker={first}/best.ckpt", trainer__max_steps=1, **shared)
        name = "transformer.blocks.0.attention.qk_norm.weight"
        made = Checkpoint(RUN / "last.ckpt").part("thinker", Thinker)
        assert made.state_dict()[name].shape == weights(first / "best.ckpt")[f"thinker.{name}"].shape
        assert not made.recipe["init_args"]["shared_qk_scales"]
        fit("fit", "--ckpt_path=last", trainer__max_steps=3, **shared)
        assert Checkpoint(RUN / "last.ckpt").lineage["step"] == 3

    def test_ancestors_are_needed_only_to_start(self, fit, workplace):
        fit()
        Path("first.ckpt").write_bytes((RUN / "best.ckpt").read_bytes())
        fit("fit", "--init_from.thinker=first.ckpt", trainer__max_steps=3)
        Path("first.ckpt").unlink()
        cli = fit("fit", "--init_from.thinker=first.ckpt", "--ckpt_path=last", trainer__max_steps=6)
        assert cli.trainer.global_step == 6
        assert Checkpoint(RUN / "last.ckpt").lineage["ancestors"]["thinker"]["step"] in (3, 6)

    def test_refuses(self, fit, fails, workplace):
        fit()
        Path("first.ckpt").write_bytes((RUN / "best.ckpt").read_bytes())
        assert "has no part 'talker'" in fails(fit, "fit", "--init_from.talker=first.ckpt")
        assert "has no part 'talker'" in fails(fit, model__init_args__frozen='["talker"]')
        assert "leaves nothing to train" in fails(fit, model__init_args__frozen='["thinker"]')
        message = fails(fit, "fit", "--init_from.thinker=first.ckpt", model__init_args__thinker__init_args__dim=64)
        assert "is 288×32 there and 288×64 here" in message
        assert "does not exist" in fails(fit, "fit", "--init_from.thinker=nowhere.ckpt")


@pytest.mark.parametrize(("max_steps", "batches"), [(10, 18), (100, 50), (-1, 50)])
def test_the_progress_bar_reaches_the_last_batch_with_accumulation(max_steps, batches):
    bar = StepBar()
    bar._trainer = SimpleNamespace(  # pyright: ignore[reportAttributeAccessIssue]
        max_steps=max_steps, global_step=4, num_training_batches=50, accumulate_grad_batches=3
    )
    assert bar.total_train_batches == batches
