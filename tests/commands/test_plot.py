"""Figures of curves, and the detection of loss drops: sudden falls after a plateau."""

import random
import shutil
from pathlib import Path

import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from omni.cli import main
from omni.curves.event_files import read_run
from omni.curves.figure import COLORS, Line, Panel, curves_figure
from omni.curves.loss_drops import LossDrop, LossDropDetector, find_loss_drops

RUN = Path("lightning_logs/thinker")


def noisy(loss, *, noise: float = 0.05, count: int = 240, seed: int = 0):
    """A curve of a value every ten steps."""
    rng = random.Random(seed)
    return [(10 * i, loss(i) * (1 + noise * rng.gauss(0, 1))) for i in range(count)]


def fall(height: float, foot: float, at: int, over: int):
    """A loss of `height` that falls to `foot` from value `at` over a number of values."""
    return lambda i: height + (foot - height) * min(1, max(0, (i - at) / over))


def write(folder: Path, **curves: dict[int, float]) -> None:
    with SummaryWriter(str(folder)) as writer:
        for name, curve in curves.items():
            for step, value in curve.items():
                writer.add_scalar(name.replace("__", "/"), value, step)


class TestLossDrop:
    @pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
    @pytest.mark.parametrize("over", [1, 5, 15])
    def test_a_sudden_fall_after_a_plateau_is_found_once(self, noise, over):
        for seed in range(5):
            (drop,) = find_loss_drops(noisy(fall(3.0, 0.6, 120, over), noise=noise, seed=seed))
            assert 1190 <= drop.start <= 1200 + 10 * over
            assert 1200 < drop.end <= 1200 + 10 * (over + 10)
            assert drop.height == pytest.approx(3.0, rel=0.1)
            assert drop.foot < 2 / 3 * drop.height

    @pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
    @pytest.mark.parametrize(
        "loss",
        [
            lambda i: 3.0,
            lambda i: 3 * 0.99**i + 0.3,
            lambda i: 3 * 0.995**i,
            lambda i: 5 * (i + 1) ** -0.3,
            lambda i: 3 - 0.01 * i,
            fall(3.0, 2.6, 120, 5),
            lambda i: 3.0 if i < 120 else 4.5,
            fall(3.0, 0.6, 5, 5),
        ],
        ids=["flat", "exponential", "slow", "power", "straight", "a small step", "a rise", "no plateau before"],
    )
    def test_other_curves_have_no_drop(self, loss, noise):
        for seed in range(5):
            assert not list(find_loss_drops(noisy(loss, noise=noise, seed=seed)))

    def test_a_second_drop_needs_its_own_plateau(self):
        two = [*noisy(fall(9.0, 3.0, 60, 5), count=120), *((s + 1200, v) for s, v in noisy(fall(3.0, 0.5, 60, 5)))]
        assert [round(drop.height) for drop in find_loss_drops(two)] == [9, 3]

    @pytest.mark.parametrize(("over", "drops"), [(5, 1), (60, 0)])
    def test_a_saved_detector_resumes_exactly(self, over, drops):
        curve = noisy(fall(3.0, 0.6, 120, over))
        assert len(list(find_loss_drops(curve))) == drops
        for cut in (60, 121, 123, 135, 180):
            first, second = LossDropDetector(), LossDropDetector()
            found = [first.add(*point) for point in curve[:cut]]
            second.points = first.points
            found += [second.add(*point) for point in curve[cut:]]
            assert [drop for drop in found if drop] == list(find_loss_drops(curve))


class TestTraining:
    def test_the_norm_of_the_gradient_is_logged_before_it_is_clipped(self, fit):
        fit(trainer__gradient_clip_val=1e-6, trainer__max_steps=4, trainer__log_every_n_steps=2)
        norms = read_run(str(RUN)).curves["train/grad_norm"]
        assert list(norms) == [1, 3]
        assert all(0.01 < norm < 100 for norm in norms.values())

    def test_the_norm_is_that_of_the_accumulated_batch(self, fit):
        options = {"model__init_args__lr": 1e-9, "model__init_args__weight_decay": 0, "trainer__max_steps": 2}
        fit(**options, data__init_args__batch_size=4)
        big = read_run(str(RUN)).curves["train/grad_norm"]
        fit(**options, data__init_args__batch_size=2, trainer__accumulate_grad_batches=2)
        assert read_run(str(RUN)).curves["train/grad_norm"] == pytest.approx(big, rel=1e-3)

    def test_a_drop_is_noted_in_the_output_and_in_tensorboard(self, fit, monkeypatch, caplog):
        from omni.stages.thinker import ThinkerPretraining

        loss, made = ThinkerPretraining.loss, []

        def falling(self, batch):
            made.append(None)
            found = loss(self, batch)
            return found._replace(total=found.total * (1.0 if len(made) < 24 else 0.1))

        monkeypatch.setattr(ThinkerPretraining, "loss", falling)
        fit(trainer__max_steps=36, trainer__val_check_interval=36, model__init_args__lr=1e-5)
        assert caplog.text.count("train/loss dropped suddenly after a plateau: from ") == 1
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(RUN))
        events.Reload()
        assert b"dropped suddenly" in events.Tensors("train/loss_drop/text_summary")[0].tensor_proto.string_val[0]


class TestPlot:
    def test_the_usual_panels_of_a_real_run(self, fit, capfd):
        fit()
        main(["plot", "thinker", "--out", "pictures/curves.png"])
        printed = capfd.readouterr().out
        assert all(name in printed for name in ("train/loss", "val/loss", "train/grad_norm"))
        assert "at step 5" in printed
        with Image.open("pictures/curves.png") as picture:
            colours = {to_hex([c / 255 for c in colour[:3]]) for _, colour in picture.getcolors(1 << 24)}
        assert COLORS[0] in colours
        assert COLORS[1] not in colours

    def test_several_runs_are_overlaid_in_different_colours(self, workplace, monkeypatch):
        drawn: list[Figure] = []
        save = Figure.savefig
        monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k)))
        drop = dict(noisy(fall(3.0, 0.6, 60, 5), count=120))
        write(Path("lightning_logs/one"), train__loss=drop, val__loss={500: 3.0, 1100: 0.7}, val__wer={1100: 0.2})
        write(Path("elsewhere/two"), train__loss=dict.fromkeys(drop, 2.0), val__wer={500: 0.9, 1100: 0.4})
        main(["plot", "one", "elsewhere/two", "--out", "curves.png", "--smoothing", "0"])
        (figure,) = drawn
        first, second = [axis for axis in figure.axes if axis.lines]
        assert [first.get_title("left"), second.get_title("left")] == ["train/loss, val/loss", "val/wer"]
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]
        assert {line.get_color() for axis in (first, second) for line in axis.lines} == set(COLORS[:2])
        (curve,) = [line for line in second.lines if line.get_color() == COLORS[1]]
        assert curve.get_xydata().tolist() == pytest.approx(torch.tensor([[500, 0.9], [1100, 0.4]]).numpy())
        assert [text.get_text() for text in first.texts] == ["drop"]

    def test_metrics_by_name_and_by_pattern_get_a_panel_each(self, workplace, capfd):
        write(Path("run"), train__loss={1: 1.0}, val__a={1: 1.0}, val__b={1: 2.0}, lr={1: 1.0})
        main(["plot", "run", "--metrics", "lr", "val/*", "--out", "curves.svg"])
        told = [line.split()[0] for line in capfd.readouterr().out.splitlines() if line.startswith("  ")]
        assert told == ["lr", "val/a", "val/b"]
        assert Path("curves.svg").read_text().count("optimizer steps") == 3

    def test_the_later_value_of_a_repeated_step_is_shown(self, workplace):
        write(Path("run"), loss={1: 1.0, 2: 2.0, 3: 3.0})
        earlier = next(Path("run").iterdir())
        earlier.rename(earlier.with_name("events.out.tfevents.1.host.1.0"))
        write(Path("run"), loss={3: 30.0, 4: 40.0})
        assert read_run("run").curves["loss"] == {1: 1.0, 2: 2.0, 3: 30.0, 4: 40.0}

    def test_a_file_that_is_being_written_is_read_to_its_end(self, workplace):
        write(Path("run"), loss=dict.fromkeys(range(9), 1.0))
        (path,) = Path("run").iterdir()
        path.write_bytes(path.read_bytes()[:-20])
        assert list(read_run("run").curves["loss"]) == list(range(8))

    def test_values_that_are_not_finite_are_left_out(self, workplace, capfd):
        write(Path("run"), train__loss={1: 1.0, 2: float("nan"), 3: 0.5})
        main(["plot", "run"])
        assert "0.5 to 1 in 2 values" in capfd.readouterr().out

    def test_smoothing_keeps_straight_lines_and_has_no_lag(self):
        straight, step = {i: 100.0 + i for i in range(99)}, {i: float(i >= 50) + 1 for i in range(99)}
        figure = curves_figure([Panel("a", [Line(0, "a", curve, False)]) for curve in (straight, step)], ["x"])
        smooth = [axis.lines[1].get_ydata() for axis in figure.axes]
        assert smooth[0][20:80] == pytest.approx(list(straight.values())[20:80], rel=1e-3)
        assert smooth[1][49] + smooth[1][50] == pytest.approx(3.0)

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["nowhere"], "run nowhere: there is no such folder, nor one in lightning_logs; lightning_logs has: one"),
            (["empty"], "empty holds no curves"),
            (["one", "--metrics", "val/typo"], "no run has logged val/typo; there are: train/loss"),
            (["one", "--out", "curves.xyz"], "its suffix must be .png, .svg or .pdf"),
            (["one", "--smoothing", "1"], "smoothing is 1: it must be from 0 to below 1"),
            (["odd"], "there is nothing to plot"),
        ],
    )
    def test_errors_end_in_one_line(self, arguments, complaint, workplace, fails):
        Path("empty").mkdir()
        write(Path("lightning_logs/one"), train__loss={1: 1.0})
        write(Path("odd"), other={1: 1.0})
        assert complaint in fails(main, ["plot", *arguments])
        shutil.rmtree("empty")


def test_a_drop_has_its_start_and_end():
    assert (
        str(LossDrop(100, 140, 3.0, 1.25)) == "dropped suddenly after a plateau: from 3 at step 100 to 1.25 at step 140"
    )
