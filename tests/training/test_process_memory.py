"""The forecast of a training process's memory on a CPU, against the peak of real runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from toy_commands import CONFIGS

from omni.cli import PRIMITIVE_CACHES
from omni.training.process_memory import LOADED_LATER, process_bytes, resident_bytes

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
CLOSE = 0.3  # 0.08 on an idle machine; beside other programs, resident pages of libraries vary by 150 MiB
WORLD = "--documents 400 --val_documents 30 --utterances 300 --val_utterances 20 --narrations 200 --val_narrations 10"
NOTHING_ELSE = "--pictures 200 --val_pictures 20 --conversations 20 --val_conversations 4"
# Asked of the process itself: the peak that its parent is told begins with the parent's own.
MEASURED = "from omni.bench.peak import peak_resident; from omni.cli import main; main(); print(peak_resident())"
STEPS = ["--trainer.max_steps=24", "--trainer.val_check_interval=24"]


def omni(*argv: str, folder: Path) -> tuple[str, int]:
    """What a command prints, and the peak of its resident memory in bytes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", MEASURED, *argv]
    run = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    assert run.returncode == 0, run.stdout
    printed, peak = run.stdout.rstrip("\n").rsplit("\n", 1)
    return printed, int(peak)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A small world."""
    folder = tmp_path_factory.mktemp("world")
    omni("data", "world", *WORLD.split(), *NOTHING_ELSE.split(), folder=folder)
    return folder


def arguments(stage: str) -> list[str]:
    """The stage's configuration in the world, which has fewer manifests here."""
    data = ["--data.init_args.train", "data/world/speech/train.jsonl"] if stage == "audio" else []
    return ["--config", str(CONFIGS / "world" / f"{stage}.yaml"), *data]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["thinker", "audio", "vision", "codec"])
def test_the_forecast_is_close_to_the_peak(stage, world):
    if stage == "codec" and not (world / "lightning_logs/world/audio/best.ckpt").exists():
        omni("fit", *arguments("audio"), *STEPS, folder=world)  # the codec starts from this audio encoder
    printed, _ = omni("plan", "--check", *arguments(stage), folder=world)
    found = re.search(r"training takes about ([\d.]+) (MiB|GiB)", printed)
    assert found is not None, printed
    forecast = float(found[1]) * {"MiB": 2**20, "GiB": 2**30}[found[2]]
    _, peak = omni("fit", *arguments(stage), *STEPS, folder=world)
    assert abs(forecast / peak - 1) < CLOSE, f"forecast {forecast / 2**20:.0f} MiB, peak {peak / 2**20:.0f} MiB"


def test_every_command_bounds_the_caches_of_primitives():
    code = "import os, omni.cli as cli; cli.main(['--version']); print(*(os.environ[n] for n in cli.PRIMITIVE_CACHES))"
    environment = {key: value for key, value in os.environ.items() if key not in PRIMITIVE_CACHES}
    chosen = next(iter(PRIMITIVE_CACHES))
    for given, expected in (({}, "256 256"), ({chosen: "9"}, "9 256")):
        run = subprocess.run([sys.executable, "-c", code], env={**environment, **given}, capture_output=True, text=True)
        assert run.stdout.splitlines()[-1] == expected, run.stderr


class Planned:
    training = 1000


def test_the_parts_of_the_forecast():
    plan: object = Planned()
    known = process_bytes(plan, 500, resident=2000)  # pyright: ignore[reportArgumentType]
    assert known == 2000 + LOADED_LATER + 500 + 1300
    here = process_bytes(plan)  # pyright: ignore[reportArgumentType]
    assert here - LOADED_LATER - 1300 == pytest.approx(resident_bytes(), rel=0.1)
