"""The command: its verbs, its overrides, and user errors, which end in one line and exit code 2."""

import io
import shlex
from pathlib import Path

import pytest
import torch

from omni.checkpoints.checkpoint import Checkpoint
from omni.cli import KINDS, PARSING_VERBS, TRAINER_VERBS, VERBS, main, verb_parser, verbs_by_kind
from omni.text.tokenizer import ByteTokenizer

CONFIG = str(Path(__file__).parents[1] / "configs" / "thinker.yaml")
BEST = "lightning_logs/thinker/best.ckpt"


class TestVerbs:
    def test_help_lists_every_verb(self, capsys):
        main(["--help"])
        lines = capsys.readouterr().out.splitlines()
        for verb in (*TRAINER_VERBS, *VERBS):
            assert any(line.strip().startswith(f"{verb} ") for line in lines)

    @pytest.mark.parametrize("verb", sorted(VERBS))
    def test_help_of_a_verb_lists_its_options(self, verb, capsys):
        with pytest.raises(SystemExit) as stop:
            main([*verb.split(), "--help"])
        assert stop.value.code == 0
        assert "--" in capsys.readouterr().out

    @pytest.mark.parametrize("verb", sorted(VERBS.keys() - set(PARSING_VERBS)))
    def test_help_of_a_verb_ends_with_an_example_that_it_accepts(self, verb):
        parser = verb_parser(verb, VERBS[verb])
        title, _, example = parser.epilog.partition(": ")
        assert title == "Example"
        assert example.startswith(f"omni {verb}")
        parser.parse_args(shlex.split(example)[len(f"omni {verb}".split()) :])

    def test_each_verb_is_of_one_kind(self):
        kinds = verbs_by_kind()
        listed = [verb for kind in KINDS for verb in kinds[kind]]
        assert sorted(listed) == sorted((*TRAINER_VERBS, *VERBS))

    def test_print_config_shows_merged_values(self, capsys):
        with pytest.raises(SystemExit) as stop:
            main(["fit", "--config", CONFIG, "--model.init_args.thinker.init_args.dim=64", "--print_config"])
        assert stop.value.code == 0
        printed = capsys.readouterr().out
        assert "gradient_clip_val: 1.0" in printed  # base.yaml
        assert "max_steps: 20000" in printed  # thinker.yaml
        assert "num_kv_heads: 2" in printed  # models/tiny/thinker.yaml
        assert "dim: 64" in printed  # the command line

    def test_debug_shows_the_traceback(self, monkeypatch):
        monkeypatch.setenv("JSONARGPARSE_DEBUG", "true")
        with pytest.raises(Exception, match="dimm"):
            main(["fit", "--config", CONFIG, "--model.init_args.thinker.init_args.dimm=64"])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["frobnicate"], "unknown verb 'frobnicate'"),
        (["data", "frobnicate"], "unknown verb 'data frobnicate'"),
        (["fit"], "required"),
        (["fit", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["fit", "--config", CONFIG, "--model.init_args.thinker.init_args.dimm=3"], "thinker: Thinker: Option 'dimm'"),
        (["fit", "--config", CONFIG, "--model.init_args.lrr=3"], "ThinkerPretraining: Option 'lrr'"),
        (
            ["fit", "--config", CONFIG, "--model.init_args.lr=abc"],
            "lr: expected float, got abc (see `omni fit --help`)",
        ),
        (["fit", "--config", CONFIG, "--trainer.max_stepz=3"], "--trainer.max_stepz"),
        (["fit", "--config", CONFIG, "--model=Foo"], "Foo"),
        (["fit", "--config", CONFIG, "--model.init_args.thinker=nowhere.yaml"], "nowhere.yaml"),
        (["fit", "--config", CONFIG, "--model.init_args.lr=-1"], "lr must be over 0, not -1"),
        (["fit", "--config", CONFIG, "--model.init_args.thinker.init_args.num_kv_heads=3"], "must be a multiple of"),
        (["fit", "--config", CONFIG, "--data.init_args.train=nowhere.txt"], "nowhere.txt"),
        (["fit", "--config", CONFIG, "--ckpt_path=nowhere.ckpt"], "nowhere.ckpt does not exist"),
        (["generate", "--checkpoint=nowhere.ckpt"], "nowhere.ckpt does not exist"),
        (["generate", "--checkpoint=nowhere.ckpt", "--top_p=1.5"], "top_p must be over 0 and at most 1, not 1.5"),
        (["chat", "--checkpoint=nowhere.ckpt", "--temperature=-1"], "temperature must be 0 or more, not -1"),
        (["generate", "--checkpoint=nowhere.ckpt", "--num_samples=0"], "num_samples must be 1 or more"),
        (["generate", "--checkpoint=nowhere.ckpt", "--top_q=1"], "--top_q"),
        (["generate"], "checkpoint"),
    ],
    ids=lambda value: " ".join(value)[-50:] if isinstance(value, list) else "",
)
def test_errors_end_in_one_line(arguments, complaint, fails, workplace):
    assert complaint in fails(main, arguments)


def test_a_folder_that_cannot_be_written_is_named(fit, fails, workplace):
    Path("taken").touch()
    message = fails(fit, trainer__logger__init_args__save_dir="taken/logs")
    assert "taken" in message


def test_ctrl_c_outside_training_ends_without_a_traceback(monkeypatch, capsys):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr("omni.cli._dispatch", interrupted)
    with pytest.raises(SystemExit) as stop:
        main(["generate"])
    assert stop.value.code == 130
    assert "Traceback" not in capsys.readouterr().err


class TestGenerate:
    def test_prints_prompt_and_continuation(self, trained, capsys):
        main(["generate", "--checkpoint", trained, "--text", "the red", "--max_tokens", "5", "--temperature", "1"])
        printed = capsys.readouterr().out
        assert printed.startswith("the red")
        assert len(printed) > len("the red\n")

    def test_several_prompts_and_samples_in_one_batch(self, trained, capsys):
        from omni import load

        main(
            ["generate", "--checkpoint", trained, "--text", "[a star, the]", "--num_samples", "2", "--max_tokens", "6"]
        )
        pieces = capsys.readouterr().out.rstrip("\n").split("\n--------\n")
        assert [piece[:3] for piece in pieces] == ["a s", "a s", "the", "the"]
        from omni.decoding.sampling import Sampling

        sampling = Sampling(temperature=0.8, top_p=0.95)
        texts = load(trained).generate(["a star", "a star", "the", "the"], max_tokens=6, sampling=sampling)
        assert pieces == [p + t for p, t in zip(["a star", "a star", "the", "the"], texts, strict=True)]

    def test_reads_prompts_from_a_file_and_stdin(self, trained, capsys, monkeypatch, workplace):
        (workplace / "prompts.txt").write_text("the\na small\n", encoding="utf-8")
        options = ["--checkpoint", trained, "--max_tokens", "3"]
        main(["generate", *options, "--file", "prompts.txt"])
        from_file = capsys.readouterr().out
        monkeypatch.setattr("sys.stdin", io.StringIO("the\na small\n"))
        main(["generate", *options, "--file", "-"])
        assert capsys.readouterr().out == from_file
        assert from_file.startswith("the")
        assert "\n--------\na small" in from_file

    def test_refuses_bad_prompts(self, trained, fails, workplace):
        (workplace / "empty.txt").touch()
        (workplace / "latin.txt").write_bytes("où".encode("latin-1"))
        generate = ["generate", "--checkpoint", trained]
        assert "empty.txt is empty" in fails(main, [*generate, "--file", "empty.txt"])
        assert "latin.txt is not UTF-8 (byte 1)" in fails(main, [*generate, "--file", "latin.txt"])
        assert "nowhere.txt cannot be read" in fails(main, [*generate, "--file", "nowhere.txt"])
        assert "not both" in fails(main, [*generate, "--file", "-", "--text", "a"])
        assert "cannot be used" in fails(main, [*generate, "--device", "cuda:7"])


class TestCheckpoints:
    """Checkpoints that cannot be used."""

    def test_truncated(self, trained, fails):
        path = Path("cut.ckpt")
        path.write_bytes(Path(trained).read_bytes()[:-2000])
        assert "cut.ckpt cannot be read" in fails(main, ["generate", "--checkpoint", str(path)])

    @pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04"], ids=["empty", "text", "zip"])
    def test_no_checkpoint(self, content, fails, workplace):
        Path("odd.ckpt").write_bytes(content)
        assert "odd.ckpt cannot be read" in fails(main, ["generate", "--checkpoint", "odd.ckpt"])

    def test_folder(self, fails, workplace):
        assert "is a folder" in fails(main, ["generate", "--checkpoint", "."])

    def test_of_another_project(self, fails, workplace):
        torch.save({"state_dict": {"weight": torch.zeros(3)}}, "other.ckpt")
        assert "was not written by omni" in fails(main, ["generate", "--checkpoint", "other.ckpt"])

    def test_with_code_in_it(self, fails, workplace):
        torch.save({"state_dict": {}, "parts": {}, "lineage": Path("."), "x": print}, "code.ckpt")
        assert "code.ckpt cannot be read" in fails(main, ["generate", "--checkpoint", "code.ckpt"])

    def test_of_another_stage(self, trained, fit, fails):
        checkpoint = Checkpoint(trained).content
        checkpoint["lineage"]["stage"] = "SpeechRecognition"
        torch.save(checkpoint, "speech.ckpt")
        message = fails(fit, "fit", "--ckpt_path=speech.ckpt")
        assert "checkpoint of stage SpeechRecognition, which ThinkerPretraining cannot continue" in message

    def test_of_another_size(self, trained, fit, fails):
        message = fails(fit, "fit", f"--ckpt_path={trained}", model__init_args__thinker__init_args__num_layers=1)
        assert "does not fit this configuration" in message

    def test_with_another_tokenizer(self, trained, fit, fails):
        checkpoint = Checkpoint(trained).content
        checkpoint["lineage"]["tokenizer"] = "0" * 64
        torch.save(checkpoint, "foreign.ckpt")
        assert "tokenizer" in fails(fit, "fit", "--ckpt_path=foreign.ckpt")
        assert "tokenizer" in fails(fit, "fit", "--init_from.thinker=foreign.ckpt")

    def test_tokenizer_larger_than_the_thinker(self, fit, fails):
        message = fails(fit, model__init_args__thinker__init_args__vocab_size=100)
        assert f"the tokenizer has {ByteTokenizer().vocab_size} tokens and the Thinker 100" in message

    def test_without_the_part(self, trained, fails):
        checkpoint = Checkpoint(trained).content
        del checkpoint["parts"]["thinker"]
        torch.save(checkpoint, "empty.ckpt")
        assert "holds no part 'thinker'; it holds: none" in fails(main, ["generate", "--checkpoint", "empty.ckpt"])


def test_fit_uses_a_tokenizer_of_data_tokenizer(fit, workplace):
    main(["data", "tokenizer", "--text", "corpus.txt", "--out", "words.model", "--vocab_size", "320"])
    options = {"data__init_args__tokenizer": "words.model", "model__init_args__thinker__init_args__vocab_size": 320}
    cli = fit(**options)
    assert cli.datamodule.tokenizer.vocab_size == 320
    assert cli.datamodule.tokenizer.decode(cli.datamodule.tokenizer.encode("a red star")) == "a red star"
