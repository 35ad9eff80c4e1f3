"""Inference with the second recipe's checkpoints: inputs are the same as in training."""

import io
import json
import sys
from pathlib import Path

import pytest
import soundfile
import torch
import toy_pretrained as toy
from conftest import tones
from PIL import Image
from toy_asr_llm import metric
from toy_commands import CONFIGS

import omni
from omni import Assistant
from omni.checkpoints.checkpoint import Checkpoint
from omni.cli import main
from omni.data.conversations.speech import TranscriptionPrompt
from omni.errors import UserError
from omni.media.images import Preprocessing
from omni.models.omni import Omni
from omni.models.pretrained.audio_encoder import PretrainedAudioEncoder
from omni.models.pretrained.thinker import PretrainedThinker
from omni.models.pretrained.tokenizer import PretrainedTokenizer
from omni.models.pretrained.vision_encoder import PretrainedVisionEncoder
from omni.models.projector import MLPProjector
from omni.text.normalization import TextNormalization

CHECKPOINT = "lightning_logs/asr_llm/last.ckpt"
SHORT = {"max_tokens": 8}
TWO = {"trainer__max_steps": 2, "trainer__val_check_interval": 2}
EYES = {
    "model__init_args__vision_encoder": '{"class_path": "PretrainedVisionEncoder", "init_args": {"source": "eyes"}}',
    "model__init_args__vision_projector": '{"class_path": "MLPProjector", "init_args": {"in_dim": 16, "out_dim": 32}}',
    "data__init_args__image_size": 16,
}
BF16 = {f"model__init_args__{part}__init_args__dtype": "bfloat16" for part in ("thinker", "audio_encoder")}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A folder of each kind of model, made once."""
    folder = tmp_path_factory.mktemp("pretrained")
    made = {kind: toy.llm(folder / kind, kind) for kind in toy.LLMS}
    made |= {kind: toy.encoder(folder / kind, kind) for kind in toy.ENCODERS}
    return made | {"eyes": toy.eyes(folder / "eyes")}


@pytest.fixture(autouse=True)
def quiet():
    """Disables progress bars of loading weights."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def assistant_of(sources, llm="qwen3", encoder="whisper", *, window=2.0, **options):
    """An Assistant of pretrained parts with a vision and an audio encoder."""
    torch.manual_seed(0)
    model = Omni(
        PretrainedThinker(source=sources[llm]),
        vision_encoder=PretrainedVisionEncoder(source=sources["eyes"], pool=2),
        vision_projector=MLPProjector(in_dim=16, out_dim=32),
        audio_encoder=PretrainedAudioEncoder(source=sources[encoder], window=window),
        audio_projector=MLPProjector(in_dim=16, out_dim=32, frame_stacking=2),
    ).eval()
    model.calibrate()
    options = {"context": 500, "preprocessing": Preprocessing(16), **options}
    return Assistant(model, PretrainedTokenizer(sources[llm]), **options)


def sound(letters="abc"):
    return torch.from_numpy(tones(letters))


def picture(seed=0):
    return torch.randint(0, 256, (3, 20, 20), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def asked(*parts):
    kinds = {3: "image", 1: "audio"}
    written = [(kinds[part.ndim] if isinstance(part, torch.Tensor) else "text", part) for part in parts]
    return {"role": "user", "content": [{"type": kind, kind: part} for kind, part in written]}


def said(text):
    return {"role": "assistant", "content": text}


# ---------------------------------------------------------------- equal to training


def own_parts(_fit):
    """`configs/world/asr_llm.yaml` at toy size: omni's own parts, and plain text."""
    thinker, encoder = ("model.init_args.thinker.init_args.", "model.init_args.audio_encoder.init_args.")
    sizes = {"vocab_size": 288, "dim": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "ffn_dim": 48}
    heard = {
        "vocab_size": 5,
        "num_mels": 16,
        "dim": 16,
        "num_layers": 1,
        "num_heads": 2,
        "ffn_dim": 24,
        "intermediate_ctc_block": 0,
    }
    heard |= {"conv_channels": 2, "head_dim": 8, "dropout": 0}
    options = {
        **{thinker + name: value for name, value in sizes.items()},
        **{encoder + name: value for name, value in heard.items()},
        "model.init_args.audio_projector": '{"class_path": "MLPProjector", "init_args": {"in_dim": 16, "out_dim": 32}}',
        "init_from": "{}",
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false",
        "trainer.max_steps": 2,
        "trainer.val_check_interval": 2,
        "trainer.logger.init_args.name": "asr_llm",
        "data.init_args.train": "speech/train.jsonl",
        "data.init_args.val": "speech/val.jsonl",
        "data.init_args.tokenizer": "bytes",
        "data.init_args.num_mels": 16,
        "model.init_args.answer_tokens": 6,
    }
    pairs = [f"--{name}={value}" for name, value in options.items()]
    return main(["fit", "--config", str(CONFIGS / "world/asr_llm.yaml"), *pairs])


RUNS = {
    "chat": lambda fit: fit(**TWO),
    "plain": lambda fit: fit(**TWO, data__init_args__template="plain", data__init_args__instructions="[]"),
    "as it is written": lambda fit: fit(**TWO, data__init_args__labels="null"),
    "bf16": lambda fit: fit(**TWO, **BF16),
    "ours": own_parts,
}


@pytest.mark.parametrize("kind", RUNS)
def test_inputs_equal_those_of_training_and_the_wer_that_of_validation(fit_llm, kind):
    cli = RUNS[kind](fit_llm)
    assistant, held = Assistant.from_pretrained(CHECKPOINT), Checkpoint(CHECKPOINT).content
    dictation, model = TranscriptionPrompt.from_state(held["dictation"]), cli.model.eval()
    rows = [json.loads(line) for line in Path("speech/val.jsonl").read_text(encoding="utf-8").splitlines()]
    answers = {}
    for batch in cli.datamodule.val_dataloader():
        with torch.no_grad():
            read = model.embed(batch).embeddings
        for number, embedded, length in zip(batch.rows.tolist(), read, batch.prompts, strict=True):
            question, _ = dictation.messages(number, "")
            question["content"][0]["audio"] = f"speech/{rows[number]['audio']}"
            prompt = assistant.prompt([question], max_tokens=6)
            with torch.no_grad():
                now = assistant.responder.embed([prompt])[0]
            tolerance = 0.05 if kind == "bf16" else 1e-4
            torch.testing.assert_close(now, embedded[:length], rtol=tolerance, atol=tolerance)
        assert assistant.responder.stop == cli.datamodule.stop
        answers |= dict(zip(batch.rows.tolist(), model.answer(batch), strict=True))
    options = ["--reference", "speech/val.jsonl", "--hypothesis", CHECKPOINT, "--json_file", "wer.json"]
    main(["eval", "wer", *options])
    report = json.loads(Path("wer.json").read_text(encoding="utf-8"))
    if kind == "bf16":
        return
    assert kind == "ours" or len({*answers.values()}) > 1
    normalize = dictation.labels or TextNormalization()
    assert [row["hypothesis"] for row in report["rows"]] == [normalize(answers[number]) for number in range(len(rows))]
    assert report["wer"] == pytest.approx(metric(cli, "val/wer"), rel=1e-5)


def test_eval_omni_uses_the_instructions_of_training(fit_llm):
    cli = fit_llm(**TWO)
    options = ["--data", "speech/val.jsonl", "--json_file", "report.json", "--max_tokens", "6"]
    main(["eval", "omni", "--checkpoint", CHECKPOINT, *options])
    report = json.loads(Path("report.json").read_text(encoding="utf-8"))
    assert report["questions"] == 8
    assert report["tasks"]["transcription"]["asked_with_audio"] == 8
    answers = {}
    for batch in cli.datamodule.val_dataloader():
        answers |= dict(zip(batch.answers, cli.model.eval().answer(batch), strict=True))
    assert {one["reference"]: one["answer"] for one in report["answers"]} == answers
    assert all("audio" in one["blank"] for one in report["answers"])


# ---------------------------------------------------------------- conversing


@pytest.mark.parametrize("template", ["chat", "plain"])
@pytest.mark.parametrize("llm", toy.LLMS)
def test_history_of_three_turns_is_one_concatenated_prompt(sources, llm, template):
    assistant = assistant_of(sources, llm, template=template)
    first = assistant.chat(text="what?", image=picture(1), **SHORT).text
    second = assistant.chat(audio=sound("ab"), **SHORT).text
    third = assistant.chat(text="and?", image=[picture(2), picture(3)], **SHORT).text
    messages = [asked(picture(1), "what?"), said(first), asked(sound("ab")), said(second)]
    messages.append(asked(picture(2), picture(3), "and?"))
    assert assistant_of(sources, llm, template=template).chat(messages, **SHORT).text == third
    assert assistant.answer([[asked("a longer one, and other")], messages], **SHORT)[1] == third


def test_cached_tokens_are_not_computed_again(sources, monkeypatch):
    assistant = assistant_of(sources)
    read = []
    embed = Omni.embed

    def counted(self, tokens, **media):
        read.append((tokens.shape[1], len(media.get("images", ()))))
        return embed(self, tokens, **media)

    monkeypatch.setattr(Omni, "embed", counted)
    first = assistant.chat(text="what?", image=picture(), **SHORT).text
    assistant.chat(text="and?", **SHORT).text  # noqa: B018
    whole = assistant.prompt([asked(picture(), "what?"), said(first), asked("and?")], max_tokens=8)
    assert read[1][0] < len(whole.tokens) - read[0][0] + 2
    assert read[1][1] == 0


@pytest.mark.parametrize("encoder", toy.ENCODERS)
def test_a_recording_at_the_end_of_the_prompt_is_encoded_again(sources, encoder):
    """In plain text nothing follows it, so the cache of the same question ends within the recording."""
    assistant = assistant_of(sources, "gpt2", encoder, template="plain")
    answers = [assistant.chat([asked(sound("abcab"))], **SHORT).text for _ in range(2)]
    assert answers[0] == answers[1] == assistant.answer([[asked(sound("a"))], [asked(sound("abcab"))]], **SHORT)[1]


@pytest.mark.parametrize("encoder", toy.ENCODERS)
def test_recordings_of_unequal_length_are_answered_independently(sources, encoder):
    assistant = assistant_of(sources, encoder=encoder)
    some = [[asked(sound(letters), "?")] for letters in ("a", "abcabcabcabcabcabc", "bc")]
    assert assistant.answer(some, **SHORT) == [assistant.chat(one, **SHORT).text for one in some]


@pytest.mark.parametrize("encoder", ["whisper", "hubert"])
def test_forty_seconds_are_encoded_to_their_end(sources, encoder):
    assistant = assistant_of(sources, encoder=encoder, window=30.0, context=1200)
    long = 0.1 * torch.randn(40 * 16_000, generator=torch.Generator().manual_seed(0))
    other = long.clone()
    other[-8_000:] = sound("abcab")[:8_000]
    prompts = [assistant.prompt([asked(one)]) for one in (long, other)]
    assert prompts[0].media[0].span.tokens == 1000
    with torch.no_grad():
        first, second = (assistant.responder.embed([prompt])[0][: 1000 + 20] for prompt in prompts)
    heard = prompts[0].encoded.tokens[: len(first)] == omni.text.tokenizer.AUDIO
    changed = (first - second).abs().amax(-1)[heard] > 1e-3
    assert changed[-10:].all()
    if encoder == "whisper":
        assert not changed[:900].any()  # nothing before the last window, and all of the last one


def test_a_failing_generation_ends_its_stream_with_the_error(sources, monkeypatch):
    assistant, calls = assistant_of(sources), []
    encode = PretrainedThinker.encode

    def failing(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("out of memory")
        return encode(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(PretrainedThinker, "encode", failing)
        reply, pieces = assistant.chat(text="what?", max_tokens=20), []
        with pytest.raises(RuntimeError, match="out of memory"):
            pieces.extend(reply)
        with pytest.raises(RuntimeError, match="out of memory"):
            reply.text  # noqa: B018
    history = [asked("what?"), *assistant.history[1:]]
    expected = assistant_of(sources).chat([*history, asked("and?")], **SHORT).text
    assert assistant.chat(text="and?", **SHORT).text == expected


# ---------------------------------------------------------------- the verbs


@pytest.fixture
def trained(fit_llm) -> str:
    """A checkpoint of a model with vision and audio, an image and a recording."""
    toy.eyes(Path("eyes"))
    fit_llm(**TWO, **EYES)
    Image.fromarray(picture().permute(1, 2, 0).numpy()).save("a.png")
    soundfile.write("a.wav", tones("ab"), 16_000)
    return CHECKPOINT


def test_generate_chat_and_a_pulled_model_give_the_same_answer(trained, monkeypatch, capsys):
    main(["hub", "push", trained, "./published"])
    assert "note: audio_encoder is not included. It is encoder, a local folder" in capsys.readouterr().out
    main(["hub", "pull", "./published", "--out", "pulled"])
    expected = Assistant.from_pretrained(trained).chat(text="what?", image="a.png", audio="a.wav", **SHORT).text
    capsys.readouterr()
    for path in (trained, "pulled"):
        files = ["--image", "a.png", "--audio", "a.wav"]
        main(["generate", "--checkpoint", path, "--text", "what?", *files, "--max_tokens", "8"])
        assert capsys.readouterr().out == expected + "\n"
        monkeypatch.setattr(sys, "stdin", io.StringIO("/image a.png\n/audio a.wav\nwhat?\n"))
        main(["chat", "--checkpoint", path, "--max_tokens", "8"])
        assert capsys.readouterr().out == expected + "\n"
    assert omni.load(trained).generate("the red", max_tokens=4)


def test_missing_or_different_models_are_reported(trained, fails, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    options = ["generate", "--checkpoint", trained, "--text", "what?"]
    Path("encoder").rename("elsewhere")
    assert "encoder: cannot be loaded from the Hub" in fails(main, options)
    Path("elsewhere").rename("encoder")
    toy.encoder(Path("encoder"), seed=1)
    assert "audio_encoder of lightning_logs/asr_llm/last.ckpt was trained on top of encoder" in fails(main, options)


def test_blank_controls_of_waveforms_are_silent(sources):
    prompt = assistant_of(sources).prompt([asked(sound(), picture(), "?")])
    [heard], [silent] = prompt.mels(), prompt._replace(blank="audio").mels()
    assert heard.shape == silent.shape == (48, 160)
    assert heard.any()
    assert not silent.any()


def test_a_question_about_what_it_lacks_is_refused(sources):
    deaf = Assistant(Omni(PretrainedThinker(source=sources["qwen3"]).eval()), PretrainedTokenizer(sources["qwen3"]))
    with pytest.raises(UserError, match="the model has no audio encoder"):
        deaf.chat(audio=sound())
