"""The Thinker's benchmark is fair, reports its conditions, and measures everything. Speeds are not tested."""

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from omni.bench.language_models import (
    MODELS,
    build_model,
    model_parameters,
    model_training_step,
    random_tokens,
    training_memory,
)
from omni.bench.race import count_parameters
from omni.bench.thinker import ThinkerRace
from omni.cli import main
from omni.devices import has_compiler
from omni.errors import UserError

TOY: dict[str, Any] = {
    "vocab_size": 4096, "dim": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "ffn_dim": 64
}  # fmt: skip
TASK = {"batch_size": 2, "context": 16, "precision": "32-true"}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of transformers itself


@pytest.fixture(autouse=True)
def _seeded_and_alone():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def toy(tmp_path: Path) -> str:
    path = tmp_path / "toy.yaml"
    path.write_text(json.dumps(TOY))
    return str(path)


@pytest.fixture
def _transformers():
    pytest.importorskip("transformers")


@pytest.mark.usefixtures("_transformers")
def test_a_race(toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "out.json"
    arguments = f"--settings {toy} --repeats 2 --steps 1 --batch_size 2 --context 16 --decode_tokens 4 --memory false"
    arguments += " --compiled false"
    report = main(
        ["bench", "thinker", *arguments.split(), "--precision", "32-true", "--threads", "1", "--json", str(path)]
    )
    measures = ["training", "as shipped", "decoding 1 row", "decoding 8 rows"]
    assert [result.measure for result in report.results] == [f"{toy}: {measure}" for measure in measures]
    for result in report.results:
        assert result.values.keys() == MODELS.keys()
        assert min(result.values.values()) > 0
        assert len(result.ratios["hf"]) == 2
    written = json.loads(path.read_text())
    assert written["conditions"][f"parameters of {toy}"] == report.conditions[f"parameters of {toy}"]
    out, err = capsys.readouterr()
    for told in ("torch ", "transformers ", "threads: 1", "32-true, 2 × 16", *(row.measure for row in report.results)):
        assert told in out
    assert "training" in err  # progress bar
    table = [line for line in out.splitlines() if line.startswith(toy)]
    assert len({line.index(" ×") for line in table}) == 1  # aligned


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # raised by the compiler itself
@pytest.mark.usefixtures("_transformers")
def test_a_race_of_compiled_models(toy: str):
    arguments = f"--settings {toy} --repeats 1 --steps 1 --batch_size 2 --context 16 --decode_tokens 4 --memory false"
    report = main(["bench", "thinker", *arguments.split(), "--precision", "32-true"])
    assert [*report.results[0].values] == ["omni compiled", "omni", "hf", "hf compiled"]
    assert report.results[0].ratios.keys() == {"omni", "hf", "hf compiled"}
    fast, same = report.results[2:4]
    assert [*fast.values] == ["omni int8 compiled", "omni", "hf", "omni compiled"]
    assert same.measure == f"{fast.measure}, uncompiled"
    assert same.values == {name: fast.values[name] for name in ("omni", "hf")}
    assert same.ratios["hf"] == pytest.approx([same.values["omni"] / same.values["hf"]])  # of one round


@pytest.mark.usefixtures("_transformers")
@pytest.mark.parametrize("tied", [True, False])
def test_models_are_equal_in_size(tied: bool):
    size = {**TOY, "tied": tied}
    omni, hf = (model_parameters(name, size) for name in ("omni", "hf"))
    assert omni == hf + 2 * (4 + 2) * 8  # QK-norm: layers, heads and key-value heads, head_dim
    real = [build_model(name, size).model for name in ("omni", "hf")]
    assert [count_parameters(model) for model in real] == [omni, hf]
    assert {p.dtype for model in real for p in model.parameters()} == {torch.float32}


@pytest.mark.usefixtures("_transformers")
@pytest.mark.parametrize("name", ["omni", "hf"])
def test_both_minimise_the_same_loss(name: str):
    model = build_model(name, TOY)
    tokens = random_tokens(model, 2, 16)
    logits = model.model(tokens).logits
    wanted = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(model.loss(tokens), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("_transformers")
@pytest.mark.parametrize("name", ["omni", "hf"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_steps_lower_the_loss(name: str, precision: str):
    model = build_model(name, TOY)
    step, tokens = model_training_step(model, **{**TASK, "precision": precision}), random_tokens(model, 2, 16)
    before = model.loss(tokens).item()
    for _ in range(5):
        step()
    assert model.loss(tokens).item() < before


@pytest.mark.usefixtures("_transformers")
@pytest.mark.parametrize("name", ["omni", "hf"])
def test_both_generate_all_tokens(name: str):
    model = build_model(name, TOY)
    model.model.eval()
    assert model.decode(random_tokens(model, 3, 5), 7) == 3 * 7


@pytest.mark.usefixtures("_transformers")
def test_memory_is_measured_after_the_libraries_are_loaded():
    # In a new process: one that has run other tests holds free memory.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        grown = pool.submit(training_memory, "omni", {**TOY, "dim": 256}, 1, TASK).result()
    assert grown > 4 * 4096 * 256


@pytest.mark.slow
@pytest.mark.usefixtures("_transformers")
def test_memory_is_measured_in_new_processes(toy: str):
    race = ThinkerRace(settings=toy, repeats=1, steps=1, batch_size=2, context=64, decode_tokens=2, precision="32-true")
    result = race.run().results[-1]
    assert result.measure == f"{toy}: peak memory of training"
    least = 4 * 4 * model_parameters("omni", TOY)  # weights, gradients, two moments
    assert min(value or 0 for value in result.values.values()) > least


@pytest.mark.usefixtures("_transformers")
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [({"num_experts": 4}, "cannot have num_experts 4"), ({"vocab_size": 64, "dim": 8}, "not a fair race")],
)
def test_unfair_races_are_refused(changes: dict[str, Any], complaint: str, tmp_path: Path):
    path = tmp_path / "unfair.yaml"
    path.write_text(json.dumps(TOY | changes))
    with pytest.raises(UserError, match=complaint):
        ThinkerRace(settings=str(path), precision="32-true").run()


@pytest.mark.usefixtures("_transformers")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--settings huge", "'huge' is neither one of tiny-32k, tied-4k"),
        ("--repeats 0", "repeats is 0"),
        ("--context 1", "context is 1"),
        ("--json no/such/folder/out.json", "there is no folder"),
    ],
)
def test_errors_are_found_before_the_race(fails, arguments: str, complaint: str):
    assert complaint in fails(main, ["bench", "thinker", "--precision", "32-true", *arguments.split()])


def test_without_transformers_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch, toy: str):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[hf\]'"):
        ThinkerRace(settings=toy).run()
