"""A suggested configuration fits the data, says why, trains, and needs no further change."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from lightning import LightningDataModule
from PIL import Image
from toy_chain import stage, two, written
from toy_commands import CONFIGS, TOY, TOY_SPEECH, TOY_VOCODER, arguments

from omni.cli import main
from omni.data.loading.statistics import DataStatistics
from omni.errors import UserError
from omni.pipeline.definition import read_pipeline
from omni.training.batch_fitting import USABLE, fit_batch
from omni.training.configuration import Configuration
from omni.training.learning_rate import lr_by_width
from omni.training.memory_plan import plan_of
from omni.training.suggestion import LARGE, Suggestion, epochs_for, suggest

THINKER = ["--config", str(CONFIGS / "thinker.yaml")]
DIM = "model.init_args.thinker.init_args.dim"
LAST = {  # too rarely for any of the lengths below
    "class_path": "omni.training.callbacks.StageCheckpoint",
    "init_args": {"filename": "last", "every_n_train_steps": 3_000_000},
}
BATCH, ACCUMULATE = "data.init_args.batch_size", "trainer.accumulate_grad_batches"


class Uncounted(LightningDataModule):
    """Data of a class that does not count it."""


def changes_of(suggestion: Suggestion) -> dict[str, tuple[object, object]]:
    return {change.key: (change.old, change.new) for change in suggestion.changes}


def plan_text(*extra: str, **overrides: object) -> Suggestion:
    (suggestion,) = main(["plan", "--suggest", *THINKER, *arguments(TOY, overrides), *extra])
    return suggestion


def suggestion_for(monkeypatch: pytest.MonkeyPatch, tokens: float, rows: int, **overrides: object) -> Suggestion:
    """The suggestion for a text of so many tokens and rows, in batches of 4 rows."""
    counted = DataStatistics(
        unit="tokens",
        counts={"train": {"tokens": tokens}},
        batch_argument="batch_size",
        batch_size=4,
        smallest_batch=1,
        train_sizes=np.ones(rows),
        max_rows=None,
        val_batches=1,
    )
    monkeypatch.setattr("omni.training.suggestion.count", lambda configuration: counted)
    few = {"trainer__max_steps": 7, "trainer__val_check_interval": 7, "trainer__callbacks+": [LAST]}
    toy = arguments(TOY, few | overrides)
    return suggest(Configuration([*THINKER, *toy, "--model.init_args.warmup_steps=1"]))


class TestLength:
    def test_text_is_counted_as_training_reads_it(self, fit, capsys):
        suggestion = plan_text()
        statistics = suggestion.statistics
        data = fit(trainer__max_steps=1).datamodule
        assert statistics.counts["train"]["rows"] == len(data.datasets["train"])
        assert statistics.train_batches(4) == len(data.train_batches())
        assert statistics.val_batches == len(data.val_dataloader())
        assert f"train: 1 documents, {statistics.counts['train']['tokens']:,} tokens" in capsys.readouterr().out

    def test_text_is_tokenised_once(self, workplace, monkeypatch):
        plan_text()

        def fail(*_: object, **__: object) -> None:
            raise AssertionError("tokenised again")

        monkeypatch.setattr("omni.data.text.token_file.TokenFile.write", fail)
        main(["fit", *THINKER, *arguments(TOY, {"trainer__max_steps": 1})])

    def test_a_suggestion_trains_and_needs_no_change(self, workplace, capsys):
        made = plan_text("--write=fitted.yaml", trainer__val_check_interval=100_000)
        steps = min(2000, 100 * made.statistics.train_batches(4))
        assert changes_of(made)["trainer.max_steps"] == (6, steps)
        assert made.values["trainer.val_check_interval"] == pytest.approx(steps / 10, abs=1)
        assert made.values["model.init_args.warmup_steps"] == round(0.03 * steps)
        printed = capsys.readouterr().out
        for change in made.changes:
            assert f"{change.key}: {change.old} -> {change.new}  ({change.reason})" in printed
        (again,) = main(["plan", "--suggest", "--config=fitted.yaml"])
        assert again.changes == []
        assert "no change" in capsys.readouterr().out
        trainer = main(
            ["fit", "--config=fitted.yaml", "--trainer.max_steps=2", "--trainer.val_check_interval=1"]
        ).trainer
        assert trainer.global_step == 2
        assert trainer.model.warmup_steps == round(0.03 * steps)
        assert trainer.model.thinker.dim == 32

    def test_larger_data_takes_fewer_epochs(self):
        for unit in ("tokens", "hours", "images", "conversations"):
            epochs = [epochs_for(unit, 10.0**power)[0] for power in range(13)]
            assert epochs == sorted(epochs, reverse=True)
            assert (epochs[0], epochs[-1]) == (10, 1)
            limit = LARGE[unit]
            assert [epochs_for(unit, share * limit)[0] for share in (0.09, 0.1, 0.99, 1, 9.9, 10)] == [
                10,
                5,
                5,
                3,
                3,
                1,
            ]

    def test_a_batch_of_other_size_makes_other_batches(self):
        common = {"unit": "hours", "counts": {}, "batch_argument": "", "batch_size": 1, "smallest_batch": 1}
        rows = DataStatistics(**common, train_sizes=np.ones(10), max_rows=None, val_batches=1)
        assert [rows.train_batches(size) for size in (1, 3, 20)] == [10, 3, 1]
        seconds = DataStatistics(**common, train_sizes=np.full(10, 2.0), max_rows=4, val_batches=1)
        assert [seconds.train_batches(size) for size in (2, 4, 100)] == [10, 5, 3]

    def test_validation_does_not_take_longer_than_training(self, workplace):
        made = plan_text(data__init_args__val_batch_size=1, data__init_args__val_fraction=0.9)
        assert made.statistics.val_batches > made.statistics.train_batches(4) > 1
        total, interval = made.values["trainer.max_steps"], made.values["trainer.val_check_interval"]
        assert interval == min(total, made.statistics.val_batches)

    @pytest.mark.parametrize(
        ("tokens", "rows", "steps", "warmup", "validation", "last"),
        [  # batches of 4 rows
            (5e6, 4_000, 10_000, 300, 1_000, 500),  # 10 epochs of 1,000 steps
            (5e7, 40_000, 50_000, 1_500, 5_000, 1_000),  # 5 of 10,000
            (5e8, 400_000, 300_000, 9_000, 30_000, 1_000),  # 3 of 100,000
            (5e9, 4_000_000, 1_000_000, 30_000, 100_000, 1_000),
            (1e4, 400, 2_000, 60, 200, 100),  # at least 2,000 steps
            (1e3, 40, 1_000, 30, 100, 50),  # at most 100 epochs
        ],
    )
    def test_lengths_by_the_rule(self, tokens, rows, steps, warmup, validation, last, workplace, monkeypatch):
        made = suggestion_for(monkeypatch, tokens, rows).values
        assert made["trainer.max_steps"] == steps
        assert made["model.init_args.warmup_steps"] == warmup
        assert made["trainer.val_check_interval"] == validation
        assert made["trainer.callbacks+"][0]["init_args"]["every_n_train_steps"] == last

    @pytest.mark.parametrize(("accumulate", "devices", "steps"), [(1, 1, 1000), (2, 1, 500), (1, 2, 500), (3, 2, 100)])
    def test_a_step_takes_a_batch_of_each_device_and_accumulation(
        self, accumulate, devices, steps, workplace, monkeypatch
    ):
        configured = {"trainer__accumulate_grad_batches": accumulate, "trainer__devices": devices}
        made = suggestion_for(monkeypatch, 1e3, 40, **configured).values  # 100 epochs of 10 batches
        assert made["trainer.max_steps"] == steps
        assert made["trainer.val_check_interval"] == steps * accumulate // 10

    def test_a_run_by_epochs_becomes_one_by_steps(self, workplace):
        made = plan_text(trainer__max_steps=-1, trainer__max_epochs=3)
        assert changes_of(made)["trainer.max_epochs"] == (3, None)
        assert made.values["trainer.max_steps"] > 0

    def test_validations_by_epochs_are_kept(self, workplace):
        made = plan_text(trainer__check_val_every_n_epoch=2, trainer__val_check_interval=1.0)
        assert "trainer.val_check_interval" not in made.values
        assert any("validation follows epochs or the clock" in note for note in made.notes)

    def test_a_short_run_saves_more_often(self, workplace):
        made = plan_text("--write=fitted.yaml", data__init_args__batch_size=200)
        assert made.values["trainer.max_steps"] == 100  # of an epoch each
        trainer = main(["fit", "--config=fitted.yaml", "--trainer.max_steps=1"]).trainer
        (last,) = [each for each in trainer.checkpoint_callbacks if each.filename == "last"]
        assert last._every_n_train_steps == 5

    def test_a_stream_keeps_its_steps(self, workplace):
        Path("corpus2.txt").write_text("another text. " * 50, encoding="utf-8")
        made = plan_text(data__init_args__streaming="true", data__init_args__val="corpus2.txt")
        assert "trainer.max_steps" not in made.values
        assert any("the length of a stream is not known" in note for note in made.notes)

    @pytest.mark.parametrize("late", [True, False])
    def test_what_starts_in_the_second_half_of_the_steps_starts_in_the_middle(self, late, speech):
        key, toy = "model.init_args.adversarial_start", ["--config", str(CONFIGS / "vocoder.yaml")]
        made = suggest(Configuration([*toy, *arguments(TOY_VOCODER, {key: 3})]))
        assert key not in made.values  # early enough
        steps = made.values["trainer.max_steps"]
        start = steps // 2 + late
        made = suggest(Configuration([*toy, *arguments(TOY_VOCODER, {key: start})]))
        assert changes_of(made).get(key) == ((start, steps // 2) if late else None)


class TestOtherData:
    def test_speech(self, speech):
        argv = ["--config", str(CONFIGS / "audio.yaml"), *arguments(TOY_SPEECH, {})]
        (made,) = main(["plan", "--suggest", *argv, "--write=fitted.yaml"])
        counts = made.statistics.counts["train"]
        assert (counts["utterances"], counts["speakers"]) == (24, 3)
        assert 0 < counts["hours"] < 0.02
        data = main(
            ["fit", "--config=fitted.yaml", "--trainer.max_steps=1", "--trainer.val_check_interval=1"]
        ).datamodule
        assert made.statistics.train_batches(8) == len(data.train_batches())

    def test_images_and_their_classes(self, workplace):
        for number in range(12):
            path = Path(f"train/{'abc'[number % 3]}/{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number * 9, 0, 0)).save(path)
        encoder = {"image_size": 16, "patch_size": 8, "dim": 16, "num_layers": 1, "num_heads": 2, "ffn_dim": 16}
        values = {f"model.init_args.vision_encoder.init_args.{key}": each for key, each in encoder.items()}
        values |= {"model.init_args.classifier.init_args.dim": 16, "data.init_args.image_size": 16}
        values |= {"data.init_args.load_size": 16, "data.init_args.train": "train", "trainer.accelerator": "cpu"}
        values |= {"data.init_args.batch_size": 4, "data.init_args.val_fraction": 0.3}
        argv = ["--config", str(CONFIGS / "vision.yaml"), *arguments(values, {})]
        (made,) = main(["plan", "--suggest", *argv, "--write=fitted.yaml"])
        assert changes_of(made)["model.init_args.classifier.init_args.num_classes"] == (10, 3)
        main(["fit", "--config=fitted.yaml", "--trainer.max_steps=1", "--trainer.val_check_interval=1"])

    def test_data_that_is_not_counted_is_named(self, workplace):
        with pytest.raises(UserError, match=r"data\.class_path: Uncounted does not count its data"):
            suggest(Configuration([*THINKER, f"--data={__name__}.Uncounted"]))


class TestMemory:
    @pytest.mark.parametrize("share", [0.9, 0.5, 0.3])
    def test_the_largest_batch_that_fits_keeps_the_effective_batch(self, share, workplace):
        configuration = Configuration([*THINKER, *arguments(TOY, {BATCH: 64})])
        memory = int(share * plan_of(configuration, data={"batch_size": 64}).training / USABLE)
        fit = fit_batch(configuration, None, gpu_memory=memory, devices_before=1, devices=1, strategy="ddp")
        size, number = fit.settings[f"{BATCH}"][0], fit.settings[ACCUMULATE][0]
        assert (size, number) == (fit.batch_size, fit.accumulate)
        assert size * number == 64
        assert number > 1

        def needed(size: int) -> int:
            return plan_of(configuration, data={"batch_size": size}, accumulating=size < 64).training

        assert needed(size) <= USABLE * memory < needed(2 * size)

    def test_activations_are_recomputed_only_where_nothing_else_helps(self, workplace):
        changes = {f"{DIM}": 32, BATCH: 1, "data.init_args.context": 512}
        configuration = Configuration([*THINKER, *arguments(TOY, changes)])
        without, with_ = (plan_of(configuration, gradient_checkpointing=flag).training for flag in (False, True))
        assert with_ < without
        common = {"devices_before": 1, "devices": 1, "strategy": "ddp"}
        key = "model.init_args.thinker.init_args.gradient_checkpointing"
        for needed, flag in ((without, False), (with_, True)):
            fit = fit_batch(configuration, None, gpu_memory=int(needed / USABLE) + 9, **common)
            assert fit.settings[key][0] is flag
        with pytest.raises(
            UserError, match=r"the smallest batch, data\.init_args\.batch_size 1, takes .* take a smaller"
        ):
            fit_batch(configuration, None, gpu_memory=with_, **common)

    def test_devices_share_the_batch(self, workplace):
        made = plan_text("--devices=2", trainer__accumulate_grad_batches=4)
        assert changes_of(made)["trainer.devices"] == (1, 2)
        assert made.values.get(BATCH, 4) * made.values[ACCUMULATE] * 2 == 16


class TestLearningRate:
    @pytest.mark.parametrize(
        ("dim", "optimizer", "lr"), [(64, "muon", 6e-3), (1024, "muon", 1.5e-3), (1024, "adamw", 5e-4)]
    )
    def test_it_falls_with_the_width(self, dim, optimizer, lr):
        size = [f"--{DIM}={dim}", f"--model.init_args.optimizer={optimizer}"]
        rate = lr_by_width(Configuration([*THINKER, *size]))
        assert rate.value == pytest.approx(lr)
        assert f"sqrt(256 / {dim})" in rate.reason
        again = lr_by_width(Configuration([*THINKER, *size, f"--model.init_args.lr={rate.value}"]))
        assert again.value is None

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ([], "as in thinker.yaml"),
            ([f"--{DIM}=64", "--model.init_args.lr=0.004"], "set by hand; the rule gives 0.006"),
            ([f"--{DIM}=64", "--init_from.thinker=a.ckpt"], "thinker starts from a checkpoint"),
        ],
    )
    def test_a_chosen_one_is_kept(self, options, reason):
        rate = lr_by_width(Configuration([*THINKER, *options]))
        assert rate.value is None
        assert reason in rate.reason

    def test_an_own_configuration_is_compared_with_the_shipped_one_of_its_stage(self, workplace):
        content = yaml.safe_load((CONFIGS / "thinker.yaml").read_text(encoding="utf-8"))
        content["model"]["init_args"]["thinker"] = {"vocab_size": 300, "dim": 64, "num_heads": 4}
        Path("own.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        assert lr_by_width(Configuration(["--config=own.yaml"])).value == pytest.approx(6e-3)


class TestChain:
    def test_each_stage_and_the_chain_are_written(self, workplace):
        chain = written(two())
        first, second = main(["plan", "--suggest", f"--chain={chain}", "--write=fitted"])
        assert first.values["trainer.max_steps"] > 6
        assert second.statistics is None
        assert any("not trained yet" in note for note in second.notes)
        content = yaml.safe_load(Path("fitted/chain.yaml").read_text(encoding="utf-8"))
        overrides = content["stages"]["thinker"]["overrides"]
        assert "trainer.max_steps" not in overrides
        assert overrides["trainer.accelerator"] == "cpu"
        stages = read_pipeline(Path("fitted/chain.yaml")).stages
        assert stages["thinker"].configuration.get("trainer.max_steps") == first.values["trainer.max_steps"]
        for each in stages.values():  # a few steps
            main(["fit", *each.arguments, "--trainer.max_steps=2", "--trainer.val_check_interval=1"])
        assert main(["plan", "--suggest", "--chain=fitted/chain.yaml"])[1].statistics is not None

    def test_a_stage_of_several_configurations_is_refused(self, workplace, fails):
        stages = two()
        stages["thinker"]["config"] = [stages["thinker"]["config"], str(Path("more.yaml").absolute())]
        Path("more.yaml").write_text("trainer: {max_epochs: 5}", encoding="utf-8")
        chain = written(stages)
        assert "give one --config" in fails(main, ["plan", "--suggest", f"--chain={chain}", "--write=fitted"])

    def test_a_dry_run_writes_nothing(self, workplace, capsys):
        before = sorted(path for path in Path().rglob("*") if "cache" not in path.parts)
        main(["plan", "--suggest", f"--chain={written({'a': stage()})}", "--write=fitted", "--dry_run"])
        main(["plan", "--suggest", *THINKER, *arguments(TOY, {}), "--write=fitted.yaml", "--dry_run"])
        after = {path for path in Path().rglob("*") if "cache" not in path.parts} - {Path("data"), Path("chain.yaml")}
        assert after == set(before)
        assert "base: configs/thinker.yaml" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--write=a.yaml"], "--write and --dry_run belong to --suggest"),
        (["--suggest", "--write=corpus.txt"], "--write corpus.txt exists and was not written by omni plan"),
        (["--suggest", "--write=a.yaml", "--config=b.yaml"], "give one --config, which a.yaml will be based on, not 2"),
        (["--suggest", "--write=b.yaml/a.yaml"], "--write b.yaml/a.yaml cannot be written"),
        (["--suggest", "--data.init_args.train=nothing.txt"], "nothing.txt"),
        (["--suggest", "--gpu_memory=1kB"], "the smallest batch"),
        (["--suggest", "--gpu_memory=12"], "is not an amount of memory"),
        (["--chain=no.yaml"], "pipeline no.yaml cannot be read"),
        (["--chain=no.yaml", "--suggest"], "pipeline no.yaml cannot be read"),
        (
            ["--chain=no.yaml", "--suggest", "--write=corpus.txt"],
            "--write corpus.txt is a file: a chain takes a folder",
        ),
    ],
)
def test_mistakes_end_in_one_line(args, complaint, workplace, capsys):
    Path("b.yaml").write_text("trainer: {}", encoding="utf-8")
    configuration = [] if "--chain" in args[0] else [*THINKER, *arguments(TOY, {})]
    with pytest.raises(SystemExit) as end:
        main(["plan", *configuration, *args])
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert complaint in err
    assert err.count("\n") == 1
    assert Path("corpus.txt").read_text(encoding="utf-8").count(".") == 150
