"""What several test files need: an empty folder to stand in, a corpus, and the command at toy size."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

CONFIGS = Path(__file__).parents[1] / "configs"

TOY = {
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "trainer.max_steps": "6",
    "trainer.val_check_interval": "3",
    "trainer.log_every_n_steps": "1",
    "model.init_args.thinker.init_args.vocab_size": "288",
    "model.init_args.thinker.init_args.dim": "32",
    "model.init_args.thinker.init_args.num_layers": "2",
    "model.init_args.thinker.init_args.ffn_dim": "48",
    "model.init_args.optimizer": "adamw",
    "model.init_args.lr": "1e-3",
    "model.init_args.warmup_steps": "2",
    "model.init_args.sample_tokens": "4",
    "data.init_args.train": "corpus.txt",
    "data.init_args.val": "null",
    "data.init_args.val_split": "tail",
    "data.init_args.tokenizer": "bytes",
    "data.init_args.context": "16",
    "data.init_args.batch_size": "4",
}


@pytest.fixture(autouse=True)
def one_thread():
    """Toy sizes are fastest, and forks safe, with one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the current one, with `corpus.txt`: sentences of a few words."""
    monkeypatch.chdir(tmp_path)
    rng = random.Random(0)
    words = [
        "the",
        "a",
        "red",
        "green",
        "blue",
        "star",
        "circle",
        "is",
        "above",
        "below",
        "left",
        "right",
        "of",
        "and",
        "small",
        "large",
    ]
    sentences = [" ".join(rng.choices(words, k=rng.randint(3, 9))) + "." for _ in range(150)]
    (tmp_path / "corpus.txt").write_text("\n".join(sentences), encoding="utf-8")
    return tmp_path


@pytest.fixture
def fit(workplace: Path) -> Callable[..., Any]:
    """Runs `omni fit` on the stage-A configuration at toy size; keyword arguments override, `__` stands for a dot."""
    from omni.cli import main

    def run(verb: str = "fit", *extra: str, **overrides: object) -> Any:
        options = {**TOY, **{name.replace("__", "."): str(value) for name, value in overrides.items()}}
        pairs = [f"--{name}={value}" for name, value in options.items()]
        return main([verb, "--config", str(CONFIGS / "thinker.yaml"), *pairs, *extra])

    return run


@pytest.fixture
def fails(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Calls something that must end as a user's mistake does: exit code 2 and one line, which is returned."""

    def check(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            call(*args, **kwargs)
        assert stop.value.code == 2
        complaints = [line for line in capfd.readouterr().err.splitlines() if line.startswith("omni: ")]
        assert len(complaints) == 1
        return complaints[0]

    return check
