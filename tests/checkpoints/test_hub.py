"""Models are published and fetched: a pulled folder equals the pushed checkpoint and contains no token."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import omni
from omni.checkpoints.checkpoint import Checkpoint
from omni.checkpoints.hub import CARD
from omni.checkpoints.safetensors_folder import CONFIG, WEIGHTS, write_folder
from omni.cli import main

BEST = "lightning_logs/thinker/best.ckpt"
TOKEN = "hf_ThisTokenMustNotBeSeenAnywhere"


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one
    )


def plain(value: Any) -> Any:
    """The value after a round trip through JSON: tuples are lists."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def check(checkpoint: str, pulled: str) -> None:
    one, other = Checkpoint(checkpoint).content, Checkpoint(pulled).content
    assert same(one["state_dict"], other["state_dict"])
    for key in {"parts", "tokenizer", "lineage", "audio", "images", "speakers"} & one.keys():
        assert plain(one[key]) == other[key]
    assert not {"optimizer_states", "loops", "callbacks", "rng", "TextData"} & other.keys()


@pytest.fixture
def thinker(trained) -> str:
    main(["hub", "push", BEST, "./published"])
    main(["hub", "pull", "./published", "--out", "pulled"])
    return "pulled"


class TestFolder:
    def test_a_thinker_generates_the_same_text(self, thinker, capsys):
        check(BEST, thinker)
        options = ["--text", "the red", "--max_tokens", "8"]
        main(["generate", "--checkpoint", BEST, *options])
        said = capsys.readouterr().out
        main(["generate", "--checkpoint", thinker, *options])
        assert capsys.readouterr().out == said
        assert omni.load(thinker).generate("a star") == omni.load(BEST).generate("a star")

    @pytest.mark.parametrize("tied", [True, False])
    def test_tied_weights_are_stored_once_and_stay_tied(self, fit, tied):
        from safetensors import safe_open

        fit(model__init_args__thinker__init_args__tied=tied, trainer__max_steps=3)
        main(["hub", "push", BEST, "./published"])
        check(BEST, "published")
        both = {"thinker.embedding.weight", "thinker.head.weight"}
        with safe_open(Path("published", WEIGHTS), "pt") as file:
            assert len(both & set(file.keys())) == 2 - tied
        read = Checkpoint("published").weights
        assert len({read[name].data_ptr() for name in both}) == 2 - tied

    def test_a_pulled_model_initialises_a_run_and_can_be_validated(self, fit, thinker):
        cli = fit("validate", "--ckpt_path=pulled")
        before = cli.trainer.callback_metrics["val/loss"]
        assert before == fit("validate", f"--ckpt_path={BEST}").trainer.callback_metrics["val/loss"]
        fit("fit", "--init_from.thinker=pulled", trainer__max_steps=1)
        ancestor = Checkpoint("lightning_logs/thinker/last.ckpt").lineage["ancestors"]["thinker"]
        assert ancestor == Checkpoint(thinker).lineage
        assert fit("validate", data__init_args__tokenizer="pulled").datamodule.tokenizer.state() == {"kind": "bytes"}

    def test_a_pulled_model_cannot_be_resumed(self, fit, thinker, fails):
        told = fails(fit, "fit", "--ckpt_path=pulled")
        assert "pulled holds weights but no training state to resume" in told
        assert "--init_from.thinker pulled" in told

    def test_a_pulled_model_can_be_pushed_with_its_card(self, thinker):
        main(["hub", "push", thinker, "./again"])
        check(BEST, "again")
        first, second = (json.loads(Path(folder, CONFIG).read_text()) for folder in (thinker, "again"))
        assert first == second
        assert first["card"]["metrics"]["val/loss"]["value"] > 0

    def test_a_recognizer_gives_the_same_transcript(self, fit_audio, speech, capsys):
        fit_audio()
        best = "lightning_logs/audio/best.ckpt"
        main(["hub", "push", best, "./published"])
        main(["hub", "pull", "./published"])
        check(best, "lightning_logs/hub/published")
        main(["eval", "wer", "--reference", str(speech / "val.jsonl"), "--hypothesis", best,
              "--other", "lightning_logs/hub/published", "--json_file", "report.json"])  # fmt: skip
        assert json.loads(Path("report.json").read_text())["others"][0]["difference"] == {"wer": 0, "low": 0, "high": 0}

    def test_a_classifier_gives_the_same_probabilities(self, fit_vision, pictures):
        fit_vision()
        best, image = "lightning_logs/vision/best.ckpt", next((pictures / "val").rglob("*.png"))
        main(["hub", "push", best, "./published"])
        check(best, "published")
        assert omni.classify(image, "published") == omni.classify(image, best)


class TestCard:
    def test_it_lists_parts_data_metrics_and_lineage(self, fit, thinker):
        fit("fit", "--init_from.thinker=pulled", trainer__max_steps=3, model__init_args__lr=1e-4)
        main(["hub", "push", BEST, "./second", "--license", "cc-by-4.0"])
        text = Path("second", CARD).read_text()
        _, metadata, body = text.split("---\n", 2)
        found = yaml.safe_load(metadata)
        assert found["library_name"] == "omni"
        assert found["pipeline_tag"] == "text-generation"
        assert found["license"] == "cc-by-4.0"
        (result,) = found["model-index"]
        told = {metric["name"]: metric["value"] for metric in result["results"][0]["metrics"]}
        curves = Checkpoint("second").content["card"]["metrics"]
        assert told.keys() == {"val/loss", "val/perplexity", "val/bits_per_byte"} == curves.keys()
        lineage = Checkpoint(BEST).lineage
        commands = "omni hub pull ./second --out second", "omni generate --checkpoint second"
        facts = (
            "TextData",
            "corpus.txt",
            "Thinker",
            "`thinker` initialised from",
            lineage["data"],
            lineage["config"][:12],
        )
        assert not [words for words in (*commands, *facts) if words not in body]
        assert f"{curves['val/loss']['value']:.4g}" in body

    def test_metrics_are_those_of_the_checkpoints_step(self, fit):
        fit(trainer__max_steps=3)
        Path("early.ckpt").write_bytes(Path(BEST).read_bytes())
        fit("fit", "--ckpt_path=last", trainer__max_steps=9)
        Path(BEST).write_bytes(Path("early.ckpt").read_bytes())
        main(["hub", "push", BEST, "./early"])
        assert {m["step"] for m in Checkpoint("early").content["card"]["metrics"].values()} == {2}

    def test_the_owners_folders_are_not_published(self, fit, workplace):
        fit(data__init_args__train=str(workplace / "corpus.txt"))
        main(["hub", "push", BEST, "./published"])
        for path in Path("published").iterdir():
            assert str(workplace).encode() not in path.read_bytes()
        assert f"{workplace.name}/corpus.txt" in Path("published", CARD).read_text()

    def test_a_checkpoint_without_its_run_states_what_is_unknown(self, trained, workplace):
        Path("alone").mkdir()
        Path("alone/model.ckpt").write_bytes(Path(BEST).read_bytes())
        main(["hub", "push", "alone/model.ckpt", "./published"])
        assert Path("published", CARD).read_text().count("Unknown") == 2


class _Hub:
    """A fake Hub in a folder: `HfApi` and `snapshot_download`, which record their arguments."""

    def __init__(self, folder: Path, error: Exception | None = None) -> None:
        self.folder, self.error, self.calls = folder, error, []

    def __call__(self, **kwargs: Any) -> "_Hub":
        self.calls.append(kwargs)
        return self

    def create_repo(self, repo_id: str, **kwargs: Any) -> None:
        self.calls.append({"repo_id": repo_id, **kwargs})
        if self.error:
            raise self.error

    def upload_folder(self, *, repo_id: str, folder_path: Path, **kwargs: Any) -> None:
        (self.folder / repo_id).mkdir(parents=True)
        for path in folder_path.iterdir():
            (self.folder / repo_id / path.name).write_bytes(path.read_bytes())

    def snapshot_download(self, repo_id: str, *, local_dir: Path, allow_patterns: list[str], **kwargs: Any) -> None:
        for name in allow_patterns:
            (local_dir / name).write_bytes((self.folder / repo_id / name).read_bytes())


class TestHub:
    @pytest.fixture
    def hub(self, workplace, monkeypatch) -> _Hub:
        import huggingface_hub

        hub = _Hub(workplace / "remote")
        monkeypatch.setattr(huggingface_hub, "HfApi", hub)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        return hub

    def test_a_private_repository_is_created_and_pulled_back(self, trained, hub):
        main(["hub", "push", BEST, "somebody/stars"])
        assert hub.calls[1] == {"repo_id": "somebody/stars", "private": True, "exist_ok": True}
        main(["hub", "pull", "somebody/stars"])
        check(BEST, "lightning_logs/hub/stars")
        main(["hub", "push", BEST, "somebody/shown", "--public"])
        assert hub.calls[-1]["private"] is False

    def test_no_token_is_printed_passed_on_or_stored(self, trained, hub, capfd, fails):
        main(["hub", "push", BEST, "somebody/stars"])
        main(["hub", "pull", "somebody/stars"])
        hub.error = RuntimeError(f"401 for Bearer {TOKEN}")
        assert "401 for Bearer [token]" in fails(main, ["hub", "push", BEST, "somebody/other"])
        assert TOKEN not in "".join(capfd.readouterr())
        assert TOKEN not in str(hub.calls)
        written = [path for path in Path().rglob("*") if path.is_file()]
        assert len(written) > 6
        assert not [path for path in written if TOKEN.encode() in path.read_bytes()]

    def test_an_unreachable_hub_is_reported_in_one_line(self, trained, fails, monkeypatch, workplace):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert "somebody/stars: Hub error" in fails(main, ["hub", "pull", "somebody/stars"])
        assert not Path("lightning_logs/hub/stars").exists()


class TestMistakes:
    def test_existing_files_are_not_overwritten(self, thinker, fails):
        Path("mine").mkdir()
        Path("mine/thesis.txt").write_text("years of work")
        assert "mine holds other files" in fails(main, ["hub", "pull", "./published", "--out", "mine"])
        assert "mine holds other files" in fails(main, ["hub", "push", BEST, "./mine"])
        assert [path.name for path in Path("mine").iterdir()] == ["thesis.txt"]

    def test_a_damaged_download_keeps_existing_files(self, thinker, fails):
        before = Path(thinker, WEIGHTS).read_bytes()
        Path("published", WEIGHTS).write_bytes(before[: len(before) // 2])
        told = fails(main, ["hub", "pull", "./published", "--out", thinker])
        assert "cannot be read: it is damaged" in told
        assert Path(thinker, WEIGHTS).read_bytes() == before
        assert not [path for path in Path().iterdir() if path.name.startswith(".pulled")]

    @pytest.mark.parametrize(
        ("spoil", "complaint"),
        [
            (lambda folder: Path(folder, CONFIG).write_text("{"), "cannot be read"),
            (lambda folder: Path(folder, CONFIG).write_text('{"model_type": "llama"}'), "was not written by omni"),
            (lambda folder: Path(folder, WEIGHTS).write_bytes(b"x"), "cannot be read"),
            (lambda folder: Path(folder, WEIGHTS).unlink(), "is a folder, not a checkpoint"),
        ],
    )
    def test_a_folder_that_is_no_model_is_refused(self, thinker, fails, spoil, complaint):
        spoil(thinker)
        assert complaint in fails(main, ["generate", "--checkpoint", thinker])

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["push", "nowhere.ckpt", "./here"], "nowhere.ckpt does not exist"),
            (["push", "nowhere.ckpt", "stars"], "give OWNER/NAME on the Hub, or a local folder"),
            (["push", "nowhere.ckpt", "a/b/c"], "give OWNER/NAME on the Hub, or a local folder"),
            (["push", "nowhere.ckpt", "some/folder"], "is also a local folder: write ./some/folder"),
            (["pull", "./nowhere"], "./nowhere does not exist"),
            (["pull", "./some"], "is not a model pushed by omni: it needs model.safetensors and config.json"),
        ],
    )
    def test_errors_end_in_one_line(self, arguments, complaint, workplace, fails):
        Path("some/folder").mkdir(parents=True)
        assert complaint in fails(main, ["hub", *arguments])


def test_only_plain_data_and_bytes_go_into_the_configuration(workplace):
    lineage = {"stage": "x", "step": 1, "config": "", "data": "", "tokenizer": "", "ancestors": {}}
    checkpoint = {"state_dict": {}, "parts": {}, "lineage": lineage, "tokenizer": {"model": bytes(range(256))}}
    write_folder(checkpoint, Path("model"))
    assert Checkpoint("model").content["tokenizer"]["model"] == bytes(range(256))
    with pytest.raises(TypeError, match="holds Tensor"):
        write_folder(checkpoint | {"odd": torch.zeros(1)}, Path("model"))
