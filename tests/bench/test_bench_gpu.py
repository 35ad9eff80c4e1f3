"""The GPU check, on a CPU at toy size: its rows, files, failures and time limit."""

import json
from functools import partial
from pathlib import Path

import pytest

from omni.bench import gpu, gpu_measures
from omni.bench.gpu import Measurement, Target, markdown, run_all
from omni.cli import main

TOY = ["bench", "gpu", "--size", "toy", "--device", "cpu", "--steps", "1"]


@pytest.fixture(autouse=True)
def _few(workplace: Path, monkeypatch):
    monkeypatch.setattr(gpu_measures, "WARMUP_STEPS", 1)


@pytest.mark.slow
def test_a_failing_measurement_is_reported_and_the_others_run(monkeypatch, capsys):
    def broken(**_):
        raise RuntimeError("out of | luck\nand more")

    monkeypatch.setattr(gpu, "resume", broken)
    with pytest.raises(SystemExit) as end:
        main([*TOY, "--stages", "thinker"])
    assert end.value.code == 1
    report = json.loads(Path("build/gpu.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in report["results"]}
    assert [row["status"] for row in rows.values()] == ["ok", "failed", "ok", "ok", "ok", "ok"]
    assert rows["fit, resume, resume on the CPU"]["error"] == "RuntimeError: out of | luck"
    for precision in ("bf16-mixed", "16-mixed"):
        trained = rows[f"thinker, {precision}"]
        assert trained["figures"]["tokens_per_second"] > 0
        assert trained["figures"]["planned_memory"] > 1e6
        assert trained["met"] is None  # memory is not measured on a CPU
    assert 0 < rows["MFU of a medium Thinker, 32k"]["figures"]["mfu"] < 1
    assert rows["MFU of a medium Thinker, 32k"]["target"] == "42% or more"
    assert rows["decoding, medium, 1 row"]["figures"]["tokens_per_second"] > 0
    table = Path("build/gpu.md").read_text(encoding="utf-8")
    assert "not measured on a CPU" in table
    assert "out of \\| luck" in table
    assert table in capsys.readouterr().out


@pytest.mark.slow
def test_stage_e_trains_on_images_and_audio():
    cpu = gpu_measures.torch.device("cpu")
    found = gpu_measures.train("omni", size="toy", device=cpu, precision="bf16-mixed", compiled=False, steps=1)
    assert found["tokens_per_second"] > 0


@pytest.mark.slow
def test_fit_resumes_and_its_checkpoint_is_read_on_the_cpu():
    found = gpu_measures.resume(size="toy", device=gpu_measures.torch.device("cpu"))
    assert found.keys() == {"first_loss", "resumed_loss", "cpu_loss"}


def test_measurements_beyond_the_time_limit_are_listed():
    results = [*run_all([Measurement("one", partial(dict, mfu=0.5))], minutes=0)]
    assert [result.status for result in results] == ["skipped"]
    assert "Skipped after the time limit: one." in markdown({}, results)


def test_targets_are_met_or_missed():
    targets = [Target("mfu", True, 0.5, "50 %"), Target("mfu", False, 0.5, "below"), Target("other", True, 1, "none")]
    measurements = [Measurement(str(n), partial(dict, mfu=0.5), target) for n, target in enumerate([*targets, None])]
    assert [result.met for result in run_all(measurements, minutes=1)] == [True, False, None, None]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--size", "toy", "--stages", "thinker,robot"], "stages: robot is not one of thinker"),
        (["--size", "toy", "--steps", "0"], "steps is 0"),
        (["--device", "cpu"], "there is no CUDA device: give --device cpu --size toy"),
    ],
)
def test_errors_end_in_one_line(fails, options, complaint):
    assert complaint in fails(main, ["bench", "gpu", *options])
