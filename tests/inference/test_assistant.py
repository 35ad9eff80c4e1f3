"""The Assistant: history as one prompt, streaming, dropped messages, speech, errors."""

from itertools import pairwise
from pathlib import Path

import pytest
import soundfile
import torch
from conftest import tones
from PIL import Image
from toy_assistant import SAYABLE, assistant_of, save_omni
from toy_omni import TOKENIZER, toy_omni
from toy_voice import codec_of, save_talker, talker_of

from omni import Assistant
from omni.decoding.sampling import Sampling
from omni.errors import UserError
from omni.inference.response import AudioChunk, TextDelta
from omni.text.tokenizer import IMAGE

SAMPLED = Sampling(temperature=2.0, seed=0)
SHORT = {"max_tokens": 12}


def picture(seed=0, side=20):
    return torch.randint(0, 256, (3, side, side), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def sound(letters="abc"):
    return torch.from_numpy(tones(letters))


def asked(*parts):
    kinds = {str: ("text", "text"), 3: ("image", "image"), 1: ("audio", "audio")}
    content = []
    for part in parts:
        kind, key = kinds[str if isinstance(part, str) else part.ndim]
        content.append({"type": kind, key: part})
    return {"role": "user", "content": content}


def said(text):
    return {"role": "assistant", "content": text}


# ---------------------------------------------------------------- text


@pytest.mark.parametrize("rope_axes", [1, 3])
@pytest.mark.parametrize("sampling", [None, SAMPLED])
def test_history_of_three_turns_is_one_concatenated_prompt(rope_axes, sampling):
    omni = toy_omni(rope_axes=rope_axes)
    assistant = assistant_of(omni, context=300)
    options = {"max_tokens": 12, "sampling": sampling}
    first = assistant.chat(text="what?", image=picture(1), **options).text
    second = assistant.chat(audio=sound("ab"), **options).text
    third = assistant.chat(text="and?", image=[picture(2), picture(3)], **options).text
    messages = [asked(picture(1), "what?"), said(first), asked(sound("ab")), said(second)]
    messages.append(asked(picture(2), picture(3), "and?"))
    assert assistant_of(omni, context=300).chat(messages, **options).text == third
    assert assistant.answer([messages], **options) == [third]
    assert len({first, second, third}) == 3
    assert [message["role"] for message in assistant.history] == ["user", "assistant"] * 3
    assert assistant.history[3] == said(second)


def test_cached_tokens_are_not_computed_again(monkeypatch):
    assistant = assistant_of()
    read = []
    embed = type(assistant.responder.omni).embed

    def counted(omni, tokens, **media):
        read.append((tokens.shape[1], len(media.get("images", ()))))
        return embed(omni, tokens, **media)

    monkeypatch.setattr(type(assistant.responder.omni), "embed", counted)
    first = assistant.chat(text="what?", image=picture(), max_tokens=8).text
    assistant.chat(text="and?", max_tokens=8).text  # noqa: B018
    assert read[0] == (len("what?") + 4 + 6, 1)
    again = read[1][0]
    assert again <= len("and?") + 6  # END and the last token may not be in the cache
    assert read[1][1] == 0
    messages = [asked(picture(), "what?"), said(first), asked("and?")]
    assert assistant.chat(messages, max_tokens=8).text == assistant.history[-1]["content"]
    assert read[2] == (1, 0)
    other = assistant.chat([asked(picture(9), "what?"), *messages[1:]], max_tokens=8).text
    assert read[3][1] == 1
    assert other == assistant_of().chat([asked(picture(9), "what?"), *messages[1:]], max_tokens=8).text


def test_streamed_text_equals_the_answer_and_that_of_a_batch():
    assistant = assistant_of()
    messages = [asked(picture(), "what?")]
    reply = assistant.chat(messages, max_tokens=20)
    pieces = [piece.text for piece in reply]
    assert len(pieces) > 10
    assert "".join(pieces) == reply.text
    others = [[asked(sound())], [asked("text", picture(4)), said("a"), asked(sound("ccc"), picture(5))]]
    assert assistant.answer([others[0], messages, others[1]], max_tokens=20)[1] == reply.text
    assert assistant.answer([]) == []
    assert not assistant.history


def test_messages_do_not_use_the_history_and_media_may_be_arguments():
    assistant = assistant_of()
    assistant.chat(text="before", **SHORT).text  # noqa: B018
    content = [{"type": "image"}, {"type": "audio"}, {"type": "text", "text": "so?"}]
    reply = assistant.chat([{"role": "user", "content": content}], image=picture(1), audio=[sound()], **SHORT)
    assert reply.text == assistant_of().chat([asked(picture(1), sound(), "so?")], **SHORT).text
    assert len(assistant.history) == 2


def test_every_conversation_starts_with_the_system_message():
    plain, guided = assistant_of(), assistant_of(system="be brief")
    messages = [{"role": "system", "content": "be brief"}, asked("what?")]
    told = guided.chat(text="what?", **SHORT).text
    assert told == plain.chat(messages, **SHORT).text == guided.answer([[asked("what?")]], **SHORT)[0]
    assert told != plain.chat(text="what?", **SHORT).text
    guided.reset()
    assert guided.history == []
    assert guided.chat(text="what?", **SHORT).text == told


def test_an_interrupted_answer_is_kept_up_to_the_interruption():
    assistant = assistant_of()
    reply = assistant.chat(text="what?", max_tokens=30)
    pieces = iter(reply)
    begun = next(pieces).text + next(pieces).text
    next_one = assistant.chat(text="and?", max_tokens=5).text
    assert assistant.history[1] == said(begun)
    assert reply.text == begun
    assert next_one == assistant_of().chat([asked("what?"), said(begun), asked("and?")], max_tokens=5).text
    assistant.chat(text="never heard")
    assert len(assistant.history) == 4


# ---------------------------------------------------------------- context


def test_the_oldest_exchanges_are_dropped_if_not_all_fit():
    assistant = assistant_of(context=60, system="s")
    answers = [assistant.chat(text=f"number {number}", max_tokens=10) for number in range(1)]
    answers[0].text  # noqa: B018
    for number in range(1, 5):
        reply = assistant.chat(text=f"number {number}", max_tokens=10)
        kept = assistant.history[reply.forgotten :]
        assert reply.forgotten % 2 == 0
        told = [{"role": "system", "content": "s"}, *kept, asked(f"number {number}")]
        alone = assistant_of(context=600).chat(told, max_tokens=10)
        assert (alone.forgotten, alone.text) == (0, reply.text)
    assert reply.forgotten > 0
    longer = assistant.prompt([*assistant.history, asked("x")], max_tokens=10)
    assert len(longer.tokens) <= 50
    one_more = assistant_of(context=600, system="s").prompt([*assistant.history[longer.forgotten - 2 :], asked("x")])
    assert len(one_more.tokens) > 50


def test_media_are_dropped_with_their_messages():
    messages = [asked(picture(1), "a" * 60), said("b"), asked(picture(2), "what?")]
    reply = assistant_of(context=60).chat(messages, max_tokens=10)
    assert reply.forgotten == 2
    assert reply.text == assistant_of().chat(messages[2:], max_tokens=10).text


# ---------------------------------------------------------------- speech


def spoken(assistant, **options):
    return assistant.chat(text="say it", speak=True, sampling=SAMPLED, max_tokens=60, **options)


def test_streamed_speech_equals_the_whole_speech():
    assistant = assistant_of(voice=True)
    reply = spoken(assistant)
    pieces = list(reply)
    assert sum(isinstance(piece, AudioChunk) for piece in pieces) > 5
    assert reply.text == "".join(piece.text for piece in pieces if isinstance(piece, TextDelta))
    whole = assistant.speak(reply.text)
    assert reply.audio.shape == whole.audio.shape
    assert (reply.audio - whole.audio).abs().max() < 1e-4
    assert len(whole.audio) > 16_000


def test_speech_starts_with_the_first_clause_while_text_is_generated():
    pieces = list(spoken(assistant_of(voice=True)))
    first = next(number for number, piece in enumerate(pieces) if isinstance(piece, AudioChunk))
    before = "".join(piece.text for piece in pieces[:first])
    after = "".join(piece.text for piece in pieces[first:] if isinstance(piece, TextDelta))
    assert len(after) > 20
    assert any(mark in before for mark in ",.!")
    kinds = [type(piece) for piece in pieces[first:]]
    assert sum(one != other for one, other in pairwise(kinds)) > 10  # text and audio alternate


def test_clauses_that_cannot_be_spoken_are_skipped_and_reported(monkeypatch):
    assistant = assistant_of(voice=True)
    text = "Abc da bad. Hello there. \U0001f600! Dad cab."
    monkeypatch.setattr(assistant.responder, "stream", lambda prompt, **options: iter(text))
    reply = assistant.chat(text="say it", speak=True)
    assert len(reply.audio) == len(assistant.speak(text).audio)
    assert len(reply.unspoken) == 1
    assert "'Hello there.' cannot be spoken: the Talker was not trained on" in reply.unspoken[0]
    heard = assistant.voice.speak("Abc da bad. Dad cab.")[0].audio
    assert (reply.audio - heard).abs().max() < 1e-4
    monkeypatch.setattr(assistant.responder, "stream", lambda prompt, **options: iter("..."))
    silent = assistant.chat(text="say it", speak=True)
    assert len(silent.audio) == len(assistant.speak("...").audio) == 0


def test_without_a_voice_there_is_no_speech():
    with pytest.raises(UserError, match="no voice"):
        assistant_of().chat(text="say it", speak=True)
    with pytest.raises(UserError, match="one voice only"):
        assistant_of(voice=True).chat(text="say it", speak=True, speaker=3)


# ---------------------------------------------------------------- checkpoints


def test_one_checkpoint_is_enough(workplace):
    path = save_omni(workplace / "omni.ckpt")
    assistant = Assistant.from_pretrained(path)
    assert assistant.prompt_reader.context == 160
    assert assistant.voice is None
    messages = [asked(picture(), sound(), "what?")]
    expected = assistant_of()
    del expected.responder.omni.thinker.logits
    assert assistant.chat(messages, **SHORT).text == expected.chat(messages, **SHORT).text
    Image.fromarray(picture().permute(1, 2, 0).numpy()).save("a.png")
    soundfile.write("a.wav", tones("abc"), 16_000, subtype="FLOAT")
    files = Assistant.from_pretrained(path).chat(text="what?", image="a.png", audio="a.wav", **SHORT)
    assert files.text == assistant.chat(messages, **SHORT).text


def test_a_voice_is_loaded_from_the_checkpoint_or_a_talkers(workplace):
    alone = save_omni(workplace / "omni.ckpt")
    talker = save_talker(workplace / "talker.ckpt")
    from_talker = Assistant.from_pretrained(alone, voice=talker)
    held = torch.load(talker)
    ours = torch.load(alone)
    for key in ("state_dict", "parts"):
        ours[key] |= held[key]
    torch.save(ours | {"units": held["tokenizer"], "speakers": []}, "whole.ckpt")
    whole = Assistant.from_pretrained("whole.ckpt")
    assert torch.equal(whole.speak("Abc.").audio, from_talker.speak("Abc.").audio)
    assert whole.voice.talker.num_codebooks == talker_of().num_codebooks == codec_of().num_codebooks


# ---------------------------------------------------------------- errors


LONG = torch.zeros(20 * 16_000)


@pytest.mark.parametrize(
    ("question", "complaint"),
    [
        (lambda: {"messages": []}, "the conversation has no messages"),
        (lambda: {"messages": [{"role": "robot", "content": "hi"}]}, "message 0: role 'robot' is unknown"),
        (lambda: {"messages": [asked("hi"), said("ho")]}, "the last message is of role assistant"),
        (lambda: {"messages": [{"role": "system", "content": "hi"}]}, "the last message is of role system"),
        (lambda: {"messages": [{"role": "user", "content": 3}]}, "message 0: content is a int"),
        (dict, "nothing to answer"),
        (lambda: {"text": ""}, "nothing to answer"),
        (lambda: {"text": "hi", "messages": [asked("hi")]}, "give either messages, or text"),
        (lambda: {"image": "nowhere.png"}, "nowhere.png: there is no such file"),
        (lambda: {"audio": "nowhere.wav"}, "nowhere.wav: does not exist"),
        (lambda: {"video": "nowhere.gif"}, "video nowhere.gif does not exist"),
        (lambda: {"image": "text.txt"}, "text.txt: no image"),
        (lambda: {"audio": "text.txt"}, "text.txt: is no audio"),
        (lambda: {"video": "text.txt"}, "text.txt is not an animated image: extract its frames"),
        (lambda: {"image": b"\x89PNG"}, "a damaged image"),
        (lambda: {"image": torch.zeros(3, 8, 8)}, r"an image of shape \(3, 8, 8\) and torch.float32"),
        (lambda: {"audio": torch.zeros(2, 8)}, r"audio of shape \(2, 8\)"),
        (lambda: {"audio": LONG}, "lasts 20.0 s and takes 250 tokens, and the context is 160: give less than 13 s"),
        (lambda: {"audio": "long.wav"}, "long.wav lasts 20.0 s and takes 250 tokens"),
        (lambda: {"image": [picture()] * 50}, "takes 304 tokens, 200 of them for 50 × image, and 128 fit"),
        (lambda: {"text": "x" * 500}, "the question takes 504 tokens, and 128 fit: the context is 160, and 32"),
        (lambda: {"text": "x", "max_tokens": 0}, "max_tokens must be 1 or more"),
        (lambda: {"text": "x", "max_tokens": 160}, "and 0 fit"),
        (
            lambda: {"messages": [asked(picture())], "image": picture()},
            "0 parts of type image name no file, and 1 are given",
        ),
        (
            lambda: {"messages": [{"role": "user", "content": [{"type": "image"}] * 2}], "image": picture()},
            "2 parts of type image name no file, and 1 are given",
        ),
        (lambda: {"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "of type audio names no file"),
    ],
)
def test_errors_are_one_line_and_keep_the_history(workplace, question, complaint):
    (workplace / "text.txt").write_text("no picture, no sound", encoding="utf-8")
    soundfile.write("long.wav", LONG.numpy(), 16_000)
    assistant = assistant_of()
    assistant.chat(text="before", **SHORT).text  # noqa: B018
    before = assistant.history
    with pytest.raises(UserError, match=complaint) as error:
        assistant.chat(**{"max_tokens": 32, **question()})
    assert "\n" not in str(error.value)
    assert assistant.history == before
    assert assistant.chat(text="after", **SHORT).text


def test_each_checkpoint_is_opened_once(workplace, monkeypatch):
    alone, talker = save_omni(workplace / "omni.ckpt"), save_talker(workplace / "talker.ckpt")
    whole, voice = torch.load(alone), torch.load(talker)
    for key in ("state_dict", "parts"):
        whole[key] |= voice[key]
    torch.save(whole | {"units": voice["tokenizer"]}, "whole.ckpt")
    opened, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda file, **options: opened.append(Path(file).name) or load(file, **options))
    for path, voice in ((alone, None), (alone, talker), ("whole.ckpt", None), ("whole.ckpt", "whole.ckpt")):
        opened.clear()
        assert (Assistant.from_pretrained(path, voice=voice).voice is None) == (path == alone and voice is None)
        assert opened == list(dict.fromkeys(Path(file).name for file in (path, voice) if file))


def test_models_without_an_encoder_report_it():
    from omni.models.omni import Omni

    deaf = assistant_of(Omni(toy_omni().thinker))
    with pytest.raises(UserError, match="the model has no vision encoder"):
        deaf.chat(image=picture())
    with pytest.raises(UserError, match="the model has no audio encoder"):
        deaf.chat(audio=sound())
    assert deaf.chat(text="hi", **SHORT).text


def test_other_checkpoints_are_refused(workplace):
    from toy_speech import save
    from toy_voice import UNITS

    save(workplace / "codec.ckpt", "codec", codec_of(), UNITS)
    with pytest.raises(UserError, match="holds no part 'thinker'"):
        Assistant.from_pretrained("codec.ckpt")
    path = save_omni(workplace / "omni.ckpt")
    with pytest.raises(UserError, match="holds no part 'talker'"):
        Assistant.from_pretrained(path, voice=path)
    with pytest.raises(UserError, match="device 'abacus' cannot be used"):
        Assistant.from_pretrained(path, device="abacus")


# ---------------------------------------------------------------- video


def test_a_video_is_frames_with_their_times(workplace):
    frames = [Image.fromarray(picture(seed).permute(1, 2, 0).numpy()) for seed in range(12)]
    for number, frame in enumerate(frames[:3]):
        (workplace / "clip").mkdir(exist_ok=True)
        frame.save(workplace / f"clip/{number}.png")
    frames[0].save("clip.webp", save_all=True, append_images=frames[1:], duration=250, lossless=True)
    assistant = assistant_of(context=300)
    content = [{"type": "video", "frames": [picture(seed) for seed in range(3)], "times": [0, 1, 2]}]
    messages = [{"role": "user", "content": content}]
    assert assistant.chat(video="clip", **SHORT).text == assistant.chat(messages, **SHORT).text
    from omni.media.video import read_video

    seen, times = read_video("clip.webp")
    assert times == [0, 0.5, 0.75, 1.25, 1.5, 2.0, 2.25, 2.75]
    assert [int(frame.sum()) for frame in seen] == [int(picture(round(4 * time)).sum()) for time in times]
    (workplace / "empty").mkdir()
    with pytest.raises(UserError, match="folder without images"):
        assistant.chat(video="empty")


def test_letters_of_toys_can_be_spoken():
    assert set(assistant_of().chat(text="what?", sampling=SAMPLED, **SHORT).text) <= set(SAYABLE)
    assert TOKENIZER.vocab_size == 288


@pytest.mark.parametrize("rope_axes", [1, 3])
def test_attention_of_the_last_token_of_a_prompt(rope_axes):
    assistant = assistant_of(toy_omni(rope_axes=rope_axes), context=300)
    prompt = assistant.prompt([asked(picture(1), sound("ab"), "what?")], max_tokens=8)
    weights = assistant.responder.attention(prompt)
    transformer = assistant.responder.omni.thinker.transformer
    assert weights.shape == (transformer.num_layers, transformer.num_heads, len(prompt.tokens))
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]))
    slots = prompt.encoded.tokens == IMAGE
    rows, columns = assistant.responder.omni.layout.image_grid
    assert int(slots.sum()) == rows * columns
    other = assistant.prompt([asked(picture(2), sound("ab"), "what?")], max_tokens=8)
    assert not torch.allclose(weights[-1], assistant.responder.attention(other)[-1], atol=1e-6)
