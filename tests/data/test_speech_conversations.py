"""Speech as conversations: manifests, instructions, labels, noise, plain text, waveforms, streams."""

import json
from pathlib import Path

import datasets
import pytest
import torch
from toy_omni import MELS, TOKENIZER

from omni.data.conversations.data import ConversationData
from omni.data.conversations.speech import TranscriptionPrompt, generate_noise, noise_conversation
from omni.errors import UserError
from omni.media.audio import LogMel, read_audio
from omni.text.media_positions import MediaLayout
from omni.text.normalization import TextNormalization
from omni.text.tokenizer import AUDIO, BOS, EOS, PAD


def make(layout=MediaLayout(mel_frames=8), **options):  # noqa: B008  immutable
    defaults = {"tokenizer": "bytes", "num_mels": MELS, "max_tokens": 96, "batch_tokens": 400}
    data = ConversationData(**{"train": "speech/train.jsonl", "val": "speech/val.jsonl", **defaults, **options})
    data.setup()
    data.set_layout(layout)
    return data


def whole(data, split="val"):
    """A split as one batch in order."""
    return data.dataset(split).__getitems__(list(range(len(data.dataset(split)))))


def rows_of(name):
    return [json.loads(line) for line in Path(name).read_text(encoding="utf-8").splitlines()]


def test_a_manifest_becomes_conversations_that_ask_for_a_transcript(speech):
    batch = whole(make())
    rows = rows_of("speech/val.jsonl")
    assert batch.answers == tuple(row["text"] for row in rows)
    assert set(batch.tasks) == {"transcription"}
    for mel, length, row in zip(batch.mels, batch.mel_lengths, rows, strict=True):
        assert torch.equal(mel[:length], LogMel(MELS)(read_audio(f"speech/{row['audio']}")))


def test_csv_folders_and_conversations_are_distinguished(speech):
    rows = rows_of("speech/val.jsonl")
    (speech / "val.csv").write_text("wav,text\n" + "".join(f"{row['audio']},{row['text']}\n" for row in rows))
    assert whole(make(val="speech/val.csv")).answers == tuple(row["text"] for row in rows)
    books = speech / "books/1/2"
    books.mkdir(parents=True)
    (books / "1-2.trans.txt").write_text("1-2-0 A B C\n", encoding="utf-8")
    (speech / rows[0]["audio"]).rename(books / "1-2-0.wav")
    assert whole(make(val="speech/books")).answers == ("A B C",)
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    for name in ("talk", "chat"):
        (speech / f"{name}.jsonl").write_text(json.dumps({"messages": talk}), encoding="utf-8")
    both = make(train=["speech/train.jsonl", "speech/talk.jsonl"], val="speech/chat.jsonl")
    assert whole(both).answers == ("ho",)
    assert len(both.dataset("train").rows) == 25


def test_instructions_take_turns_and_labels_are_normalised(speech):
    rows = [{**row, "text": f"{row['text'].upper()}, 2!"} for row in rows_of("speech/val.jsonl")]
    (speech / "loud.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    some = ["Write!", "What is said?", "Hm?"]
    batch = whole(make(val="speech/loud.jsonl", instructions=some, labels=TextNormalization()))
    assert batch.answers[0] == f"{rows_of('speech/val.jsonl')[0]['text']} two"
    for number, tokens in enumerate(batch.tokens):
        assert some[number % 3] in TOKENIZER.decode(tokens.tolist())


def test_plain_text_is_audio_then_text_then_eos(speech):
    data = make(template="plain")
    tokens = whole(data).tokens[0].tolist()
    text = TOKENIZER.encode(rows_of("speech/val.jsonl")[0]["text"])
    heard = tokens.count(AUDIO)
    assert [token for token in tokens if token != PAD] == [BOS, *[AUDIO] * heard, *text, EOS]
    assert data.stop == EOS


def test_waveforms_are_frames_of_ten_milliseconds(speech):
    batch = whole(make(num_mels=0))
    audio = read_audio("speech/val-0.wav")
    assert batch.mels.shape[2] == 160
    heard = batch.mels[0, : batch.mel_lengths[0]].flatten()
    assert torch.equal(heard[: len(audio)], audio)
    assert not heard[len(audio) :].any()
    assert not batch.mels[0, batch.mel_lengths[0] :].any()


def test_noise_has_an_empty_answer_in_training_only(speech):
    data = make(noise_share=0.5, instructions=["Write!"])
    batch = whole(data, "train")
    assert batch.tasks.count("silence") == 12
    assert {answer for answer, task in zip(batch.answers, batch.tasks, strict=True) if task == "silence"} == {""}
    assert "silence" not in whole(data).tasks
    scored = (batch.targets >= 0).sum(1)
    assert {int(n) for n, task in zip(scored, batch.tasks, strict=True) if task == "silence"} == {1}


def test_noise_is_seeded_varied_and_bounded():
    sounds = [generate_noise(0, index, 1.0) for index in range(40)]
    assert torch.equal(sounds[7], generate_noise(0, 7, 1.0))
    levels = torch.stack([sound.square().mean().sqrt() for sound in sounds])
    assert 0 < (levels == 0).sum() < 20
    assert levels.max() <= 0.101
    assert levels[levels > 0].min() < 1e-3
    seconds = {noise_conversation(index, TranscriptionPrompt(), 0).media[0].duration for index in range(20)}
    assert len(seconds) == 20


def test_the_key_of_audio_changes_with_its_file(speech):
    first = whole(make()).audio_keys
    assert len(set(first)) == len(first) == 8
    path = speech / "val-0.wav"
    path.write_bytes(path.read_bytes() + b"\0")
    again = whole(make()).audio_keys
    assert [a == b for a, b in zip(first, again, strict=True)] == [False] + [True] * 7


def test_rows_without_text_are_reported(speech):
    rows = [*rows_of("speech/val.jsonl"), {"audio": "val-0.wav", "text": "?!"}]
    (speech / "some.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(UserError, match=r"some.jsonl: row 9: has no text"):
        make(val="speech/some.jsonl", labels=TextNormalization())
    with pytest.warns(UserWarning, match="1 of 9 rows left out"):
        data = make(val="speech/some.jsonl", labels=TextNormalization(), bad_rows="skip")
    assert len(whole(data).answers) == 8


@pytest.fixture
def hub(speech):
    """A folder that `datasets` loads: utterances with audio."""
    rows = rows_of("speech/train.jsonl")
    table = datasets.Dataset.from_list(
        [
            {"audio": {"bytes": (speech / row["audio"]).read_bytes(), "path": row["audio"]}, "text": row["text"]}
            for row in rows
        ]
    )
    (speech / "hub").mkdir()
    table.to_parquet(str(speech / "hub/train.parquet"))
    return "hub:speech/hub"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_speech_of_the_hub_is_the_same_in_memory_and_streamed(speech, hub):
    texts = sorted(row["text"] for row in rows_of("speech/train.jsonl"))
    options = {"cache_dir": str(speech / "cache")}
    assert sorted(whole(make(train=hub, **options), "train").answers) == texts
    streamed = [*make(train=hub, streaming=True, shuffle_buffer=7, **options).train_dataloader()]
    assert sorted(text for batch in streamed for text in batch.answers) == texts
    assert all(batch.tokens.numel() <= 400 for batch in streamed)


def test_a_stream_is_shuffled_each_pass_and_mixed_with_noise(speech):
    data = make(streaming=True, shuffle_buffer=7, noise_share=0.25)
    loader = data.train_dataloader()
    passes = [[answer for batch in loader for answer in batch.answers] for _ in range(2)]
    assert sorted(passes[0]) == sorted(passes[1])
    assert passes[0] != passes[1]
    assert passes[0].count("") == 6
    again = [
        answer
        for batch in make(streaming=True, shuffle_buffer=7, noise_share=0.25).train_dataloader()
        for answer in batch.answers
    ]
    assert again == passes[0]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"noise_share": -1.0}, "data.noise_share is -1.0: it must be 0 or more"),
        ({"streaming": True, "replay": "corpus.txt"}, "leave replay and weights out"),
        ({"train": "speech/none.jsonl"}, "does not exist: name a .jsonl file of conversations, a manifest of speech"),
    ],
)
def test_invalid_arguments_are_refused(speech, options, complaint):
    with pytest.raises(UserError, match=complaint):
        make(**options)
