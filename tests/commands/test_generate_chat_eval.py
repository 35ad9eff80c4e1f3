"""The verbs that converse: `generate` with media, `chat` over a pipe, `eval omni`; errors end in one line."""

import io
import json
import re
import signal
import sys
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from any_text import HARD, random_texts
from conftest import tones
from PIL import Image
from toy_assistant import assistant_of, save_omni, sayable
from toy_voice import save_talker

from omni import Assistant
from omni.cli import main
from omni.commands import chat as chatting
from omni.evaluation.accuracy import accuracy
from omni.media.audio import read_audio

OMNI = ["--checkpoint", "omni.ckpt"]


@pytest.fixture
def place(workplace: Path, monkeypatch) -> Path:
    """A folder with a model, a Talker for the model's answers, an image, a recording and a video clip."""
    save_omni(workplace / "omni.ckpt")
    save_talker(workplace / "talker.ckpt", fast=True)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("a.png")
    (workplace / "clip").mkdir()
    Image.fromarray(pixels[::-1]).save("clip/1.png")
    soundfile.write("a.wav", tones("ab"), 16_000)
    load = Assistant.from_pretrained.__func__

    def loaded(cls, *args, **options):
        assistant = load(cls, *args, **options)
        sayable(assistant.responder.omni)
        return assistant

    monkeypatch.setattr(Assistant, "from_pretrained", classmethod(loaded))
    return workplace


def generated(capsys, *options):
    capsys.readouterr()
    main(["generate", *OMNI, "--max_tokens", "12", *options])
    return capsys.readouterr().out


class TestGenerate:
    def test_answers_questions_about_all_media(self, place, capsys):
        files = ["--image", "a.png", "a.png", "--audio", "a.wav", "--video", "clip"]
        out = generated(capsys, "--text", "what?", *files)
        told = assistant_of().chat(text="what?", image=["a.png", "a.png"], audio="a.wav", video="clip", max_tokens=12)
        assert out == told.text + "\n"
        assert out != generated(capsys, "--text", "what?", *files[:2])
        assert generated(capsys, "--audio", "a.wav", "--system", "s") == (
            assistant_of(system="s").chat(audio="a.wav", max_tokens=12).text + "\n"
        )

    def test_several_questions_are_answered_independently(self, place, capsys):
        out = generated(capsys, "--text", "[what?, and?]", "--image", "a.png", "--num_samples", "2")
        alone = [generated(capsys, "--text", text, "--image", "a.png").rstrip("\n") for text in ("what?", "and?")]
        assert out.rstrip("\n").split("\n--------\n") == [alone[0], alone[0], alone[1], alone[1]]

    def test_speech_has_the_written_text(self, place, capsys):
        sampled = ["--text", "what?", "--temperature", "2", "--top_p", "1", "--max_tokens", "40"]
        out = generated(capsys, *sampled, "--speak", "said/x.wav", "--voice", "talker.ckpt")
        text, line = out.splitlines()
        audio = read_audio(Path("said/x.wav"))
        assert line == f"said/x.wav: {len(audio) / 16_000:.2f} s"
        assert generated(capsys, *sampled) == text + "\n"
        whole = Assistant.from_pretrained("omni.ckpt", voice="talker.ckpt").speak(text).audio
        assert audio.shape == whole.shape
        assert (audio - whole.clamp(-1, 1)).abs().max() < 1e-3
        assert len(audio) > 1_000

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            (["--image", "nowhere.png"], "nowhere.png: there is no such file"),
            (["--image", "a.wav"], "a.wav: no image"),
            (["--audio", "a.png"], "a.png: is no audio"),
            (["--image", *["a.png"] * 50, "--text", "x"], "200 of them for 50 × image"),
            (["--text", "x", "--speak", "x.wav"], "there is no voice: give a checkpoint"),
            (["--text", "x", "--speak", "x.xyz"], "audio cannot be written as .xyz"),
            (["--text", "[x, y]", "--speak", "x.wav", "--voice", "talker.ckpt"], "--speak takes one answer"),
            (["--text", "x", "--voice", "omni.ckpt"], "holds no part 'talker'"),
            (["--text", "x", "--speak", "x.wav", "--voice", "talker.ckpt", "--speaker", "3"], "one voice only"),
            ([], "there is nothing to answer"),
        ],
    )
    def test_errors_end_in_one_line(self, place, fails, options, complaint):
        assert complaint in fails(main, ["generate", *OMNI, *options])
        assert not list(Path().glob("*x.wav*"))

    def test_a_checkpoint_of_stage_a_only_continues_text(self, place, fails, capfd):
        held = torch.load("omni.ckpt")
        held["parts"] = {"thinker": held["parts"]["thinker"]}
        held["lineage"]["stage"] = "ThinkerPretraining"
        torch.save(held, "thinker.ckpt")
        options = ["generate", "--checkpoint", "thinker.ckpt", "--text", "the", "--max_tokens", "3"]
        main(options)
        assert capfd.readouterr().out.startswith("the")
        for given in (["--image", "a.png"], ["--speak", "x.wav"], ["--system", "s"]):
            assert f"{given[0]} needs a checkpoint of stage E" in fails(main, [*options, *given])
        chat = ["chat", "--checkpoint", "thinker.ckpt"]
        assert "only continues texts (`omni generate`)" in fails(main, chat)


# ---------------------------------------------------------------- chat


def chatted(monkeypatch, text, *options):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    main(["chat", *OMNI, "--max_tokens", "10", *options])


class TestChat:
    def test_a_conversation_over_a_pipe(self, place, monkeypatch, capsys):
        chatted(monkeypatch, "/image a.png\nwhat?\n\n/audio a.wav\n\nand?\n/history\n/reset\nand?\n/history\n/quit\nno")
        lines = capsys.readouterr().out.splitlines()
        assistant = assistant_of()
        told = [assistant.chat(text="what?", image="a.png", max_tokens=10).text]
        told += [assistant.chat(audio="a.wav", max_tokens=10).text, assistant.chat(text="and?", max_tokens=10).text]
        assert lines[:3] == told
        assert lines[3:9] == [
            "user: [image] what?", f"assistant: {told[0]}", "user: [audio]", f"assistant: {told[1]}",
            "user: and?", f"assistant: {told[2]}",
        ]  # fmt: skip
        again = assistant_of().chat(text="and?", max_tokens=10).text
        assert lines[9:] == [again, "user: and?", f"assistant: {again}"]

    def test_answers_are_spoken_into_numbered_files(self, place, monkeypatch, capsys):
        spoken = ["--voice", "talker.ckpt", "--temperature", "2", "--top_p", "1"]
        chatted(monkeypatch, "one?\n/speak said\ntwo?\nthree?\n/speak off\nfour?\n", *spoken)
        out = capsys.readouterr().out
        assert re.findall(r"^(said/\d+.wav): [\d.]+ s", out, re.MULTILINE) == ["said/0001.wav", "said/0002.wav"]
        assert sorted(path.name for path in Path("said").iterdir()) == ["0001.wav", "0002.wav"]
        chatted(monkeypatch, "one?\n", *spoken, "--speak", "said")
        assert Path("said/0003.wav").is_file()

    def test_errors_are_reported_and_the_conversation_continues(self, place, monkeypatch, capsys):
        lines = ["/image nowhere.png", "/audio", "/frobnicate", "/speak said", "x" * 400, "what?", "/history"]
        with pytest.raises(SystemExit) as stop:
            chatted(monkeypatch, "\n".join(lines))
        assert stop.value.code == 2
        told = capsys.readouterr()
        complaints = ("nowhere.png: there is no such", "/audio needs a file", "unknown command /frobnicate",
                      "no Talker to speak with", "the question takes 404 tokens")  # fmt: skip
        mistakes = [line for line in told.err.splitlines() if line.startswith("omni: ")]
        assert len(mistakes) == len(complaints)
        assert all(words in line for words, line in zip(complaints, mistakes, strict=True))
        answer = assistant_of().chat(text="what?", max_tokens=10).text
        assert told.out.splitlines() == [answer, "user: what?", f"assistant: {answer}"]

    def test_dropped_messages_are_reported(self, place, monkeypatch, capsys):
        chatted(monkeypatch, f"{'a' * 50}\n{'b' * 50}\n{'c' * 50}\n", "--context", "120")
        assert "(the first 2 messages do not fit any more and are left out)" in capsys.readouterr().err

    def test_ctrl_c_stops_the_answer_and_not_the_program(self, place, monkeypatch, capsys):
        stopped = []
        show = chatting.print_response

        def interrupted(reply, out):
            pieces = reply._pieces

            def some():
                for number, piece in enumerate(pieces):
                    if number == 3 and not stopped:
                        stopped.append(piece)
                        signal.raise_signal(signal.SIGINT)
                    yield piece

            reply._pieces = some()
            try:
                show(reply, out)
            finally:
                pieces.close()

        monkeypatch.setattr(chatting, "print_response", interrupted)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
        try:
            chatted(monkeypatch, "what?\nand?\n/history\n", "--voice", "talker.ckpt", "--speak", "said")
        finally:
            signal.signal(signal.SIGINT, before)
        told = capsys.readouterr()
        lines = [line for line in told.out.splitlines() if not line.startswith("said/")]
        assert "(stopped" in told.err
        whole = assistant_of().chat(text="what?", max_tokens=10).text
        assert len(lines[0]) < len(whole)
        assert whole.startswith(lines[0])
        assert lines[2] == "user: what?"
        assert len(lines) == 6
        assert not list(Path("said").glob(".*"))

    def test_the_help_names_every_command(self, place, monkeypatch, capsys):
        chatted(monkeypatch, "/help\n")
        out = capsys.readouterr().out
        commands = chatting.Session(assistant_of(), {}, dict.fromkeys(("image", "audio", "video")), print).commands
        assert all(f"  {name} " in out or f"  {name}\n" in out for name in (*commands, "/quit"))


# ---------------------------------------------------------------- eval


def examined(*options):
    main(["eval", "omni", *OMNI, "--json_file", "report.json", "--max_tokens", "12", *options])
    return json.loads(Path("report.json").read_text(encoding="utf-8"))


@pytest.fixture
def questions(place) -> Path:
    """Questions of four tasks after another exchange; for two of three the reference is the model's own answer."""
    assistant, rows = Assistant.from_pretrained("omni.ckpt"), []
    for number in range(12):
        task = ("colour", "text", "transcription", "composition")[number % 4]
        medium = {"colour": "image", "transcription": "audio", "composition": "image"}.get(task)
        parts = [{"type": medium, medium: {"image": "a.png", "audio": "a.wav"}[medium]}] if medium else []
        user = {"role": "user", "content": [*parts, {"type": "text", "text": f"number {number}"}]}
        before = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
        (said,) = assistant.answer([[*before, user]], max_tokens=12)
        truth = said if number < 8 else "something else"
        rows.append({"messages": [*before, user, {"role": "assistant", "content": truth}], "task": task})
    Path("talks").mkdir()
    for name in ("a.png", "a.wav"):
        Path(f"talks/{name}").write_bytes(Path(name).read_bytes())
    Path("talks/test.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return place


class TestEval:
    def test_counts_by_task_with_intervals_and_blank_controls(self, questions, capsys):
        report = examined("--data", "talks/test.jsonl", "--batch_size", "5")
        tasks = report["tasks"]
        assert {name: figures["right"] for name, figures in tasks.items()} == dict.fromkeys(tasks, 2)
        assert report["all"]["asked"] == 6  # transcription and composition are reported separately
        assert report["all"]["accuracy"] == pytest.approx(2 / 3)
        assert 0 < report["all"]["low"] < 2 / 3 < report["all"]["high"] < 1
        assert tasks["colour"]["blank_image"] < 2 / 3
        assert {name for name in tasks if "blank_audio" in tasks[name]} == {"transcription"}
        assert report["with_image"]["asked"] == 3
        assert 0 < report["wer"]["wer"] <= 1.5
        assert len(report["answers"]) == 12
        out = capsys.readouterr().out
        assert "all but composition, transcription" in out
        assert "spoken answers are not measured" in out
        few = examined("--data", "talks/test.jsonl", "--limit", "4", "--modality_ablation", "false")
        assert few["questions"] == 4
        assert all(not one["blank"] for one in few["answers"])

    def test_spoken_answers_are_transcribed_by_the_voices_recognizer(self, questions, capsys):
        from toy_speech import ToneEncoder

        held, encoder = torch.load("talker.ckpt"), ToneEncoder()
        held["parts"]["audio_encoder"] = encoder.recipe
        held["state_dict"] |= {f"audio_encoder.{name}": weight for name, weight in encoder.state_dict().items()}
        torch.save(held, "talker.ckpt")
        report = examined("--data", "talks/test.jsonl", "--voice", "talker.ckpt", "--spoken", "5")
        assert report["round_trip_wer"]["utterances"] <= 5
        assert report["round_trip_wer"]["wer"] > 0
        assert "as talker.ckpt transcribes them" in capsys.readouterr().out

    def test_any_answer_is_counted_spoken_and_written(self, questions, monkeypatch):
        from toy_speech import ToneEncoder

        held, encoder = torch.load("talker.ckpt"), ToneEncoder()
        held["parts"]["audio_encoder"] = encoder.recipe
        held["state_dict"] |= {f"audio_encoder.{name}": weight for name, weight in encoder.state_dict().items()}
        torch.save(held, "talker.ckpt")
        texts = [*HARD, *random_texts(15)]
        short = cycle(text for text in texts if len(text) < 100)
        answers = cycle(texts)
        for options, said in (([], answers), ([], answers), ([], answers), (["--voice", "talker.ckpt"], short)):
            monkeypatch.setattr(Assistant, "answer", lambda _, prompts, said=said, **__: [next(said) for _ in prompts])
            report = examined("--data", "talks/test.jsonl", "--spoken", "12", *options)
            assert report["all"]["right"] == 0
            assert len(report["answers"]) == 12
        assert report["unspoken"]

    def test_answers_with_weights_of_8_bits(self, questions, monkeypatch):
        asked = []
        monkeypatch.setattr("omni.commands.eval_omni.accelerate", lambda models, **options: asked.append(options))
        examined("--data", "talks/test.jsonl", "--int8", "--batch_size", "8")
        assert asked == [{"int8": True}]

    def test_a_broken_recording_costs_its_question(self, questions, fails):
        rows = [json.loads(line) for line in Path("talks/test.jsonl").read_text(encoding="utf-8").splitlines()]
        rows[2]["messages"][2]["content"][0]["audio"] = "broken.wav"
        Path("talks/broken.wav").write_bytes(b"no audio")
        Path("talks/test.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        complaint = fails(examined, "--data", "talks/test.jsonl", "--batch_size", "1")
        assert "talks/test.jsonl: row 3: talks/broken.wav" in complaint
        report = json.loads(Path("report.json").read_text(encoding="utf-8"))
        assert len(report["answers"]) == 11
        assert len(report["unanswered"]) == 1

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            ([], "there are no conversations: give --data"),
            (["--data", "nowhere.jsonl"], "nowhere.jsonl: does not exist"),
            (["--data", "talks/test.jsonl", "--batch_size", "0"], "batch_size is 0"),
            (["--data", "talks/test.jsonl", "--int8"], "--int8 is for batches of at most 8 questions, not 32"),
            (["--data", "empty.jsonl"], "no conversations"),
            (["--data", "silent.jsonl"], "silent.jsonl: row 1: the conversation has no message of the assistant"),
            (["--data", "talks/lost.jsonl"], "talks/lost.jsonl: row 1: talks/lost.png: there is no such file"),
            (["--data", "robot.jsonl"], "robot.jsonl: row 1: message 0: role 'robot' is unknown"),
        ],
    )
    def test_errors_end_in_one_line(self, questions, fails, options, complaint):
        Path("empty.jsonl").touch()
        user, said = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}
        lost = {"role": "user", "content": [{"type": "image", "image": "lost.png"}]}
        files = {"silent": [user], "talks/lost": [lost, said], "robot": [{**user, "role": "robot"}, said]}
        for name, messages in files.items():
            Path(f"{name}.jsonl").write_text(json.dumps({"messages": messages}), encoding="utf-8")
        assert complaint in fails(examined, *options)


def test_intervals_are_wilson_intervals():
    figures = accuracy(81, 263)  # Newcombe 1998, table I: 81 of 263
    assert (round(figures["low"], 4), round(figures["high"], 4)) == (0.2553, 0.3662)
    assert accuracy(5, 5)["high"] == 1.0
    assert accuracy(0, 5)["low"] == 0.0
