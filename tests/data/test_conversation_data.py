"""Conversations: scored tokens, truncation, mixing, batches, errors and resuming."""

import json
from contextlib import nullcontext, suppress

import numpy as np
import pytest
import torch
from PIL import Image
from toy_omni import MELS, TOKENIZER

from omni.batch import IGNORE
from omni.data.conversations.data import ConversationData
from omni.data.loading.weights import groups
from omni.errors import UserError
from omni.media.audio import LogMel, read_audio, write_audio
from omni.text.media_positions import MediaLayout
from omni.text.tokenizer import ASSISTANT, AUDIO, BOS, END, EOS, IMAGE, PAD, USER

LAYOUT = MediaLayout(image_grid=(2, 2), mel_frames=8)


def turn(asked, answer=None):
    """A question, and its answer if given."""
    messages = [{"role": "user", "content": asked}]
    return messages if answer is None else [*messages, {"role": "assistant", "content": answer}]


def picture(name):
    return {"type": "image", "image": name}


def sound(name, **more):
    return {"type": "audio", "audio": name, **more}


def text(words):
    return {"type": "text", "text": words}


ROWS = [
    {"messages": turn([picture("red.png"), text("what?")], "red"), "task": "colour"},
    {"messages": turn([sound("hum.wav"), text("heard?")], "a hum") + turn("sure?", "yes"), "task": "sound"},
    {"messages": turn("hello", "hi"), "task": "text"},
    {"messages": turn([picture("blue.png"), sound("hum.wav"), picture("red.png")], "no"), "task": "both"},
]


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def folder(workplace):
    """Pictures, a recording, and `train.jsonl` and `val.jsonl` that use them."""
    for name, colour in {"red": (200, 0, 0), "blue": (0, 0, 200)}.items():
        Image.new("RGB", (16, 16), colour).save(workplace / f"{name}.png")
    generator = torch.Generator().manual_seed(0)
    write_audio(workplace / "hum.wav", 0.1 * torch.randn(4100, generator=generator))  # 26 mel frames, 4 tokens
    write(workplace / "train.jsonl", ROWS)
    write(workplace / "val.jsonl", ROWS)
    return workplace


def make(layout=LAYOUT, **options):
    defaults = {"tokenizer": "bytes", "image_size": 16, "num_mels": MELS, "max_tokens": 96, "batch_tokens": 400}
    data = ConversationData(**{"train": "train.jsonl", "val": "val.jsonl", **defaults, **options})
    data.setup()
    data.set_layout(layout)
    return data


def whole(data):
    """The validation split as one batch in order."""
    return data.dataset("val").__getitems__(list(range(len(data.dataset("val")))))


# ---------------------------------------------------------------- scored tokens, places of media


def test_only_the_assistants_tokens_are_scored(folder):
    batch = whole(make())
    row = batch.tokens[1].tolist()
    said = TOKENIZER.encode
    expected = [BOS, USER, 14, *[AUDIO] * 4, 15, *said("heard?"), END, ASSISTANT, *said("a hum"), END]
    expected += [USER, *said("sure?"), END, ASSISTANT, *said("yes"), END]
    assert row[: len(expected)] == expected
    assert set(row[len(expected) :]) <= {PAD}
    scored = [IGNORE] * len(row)
    begins = [i for i, token in enumerate(row) if token == ASSISTANT]
    for begin, answer in zip(begins, ("a hum", "yes"), strict=True):
        scored[begin : begin + len(answer) + 1] = [*said(answer), END]
    assert batch.targets[1].tolist() == scored


def test_a_batch_holds_the_media_of_its_rows_in_order(folder):
    batch = whole(make())
    assert batch.image_rows == (0, 3, 3)
    assert batch.audio_rows == (1, 3)
    assert [int(image[0].mean() > image[2].mean()) for image in batch.images] == [1, 0, 1]  # red, blue, red
    assert (batch.tokens == IMAGE).sum(1).tolist() == [4, 0, 0, 8]
    assert (batch.tokens == AUDIO).sum(1).tolist() == [0, 4, 0, 4]
    assert torch.equal(batch.mels[0], LogMel(MELS)(read_audio("hum.wav")))
    assert batch.mel_lengths.tolist() == [26, 26]
    assert batch.tasks == ("colour", "sound", "text", "both")
    assert batch.num_tokens == int((batch.tokens != PAD).sum())


def test_prompts_end_before_the_last_answer(folder):
    batch = whole(make())
    assert batch.answers == ("red", "yes", "hi", "no")
    for row, length in enumerate(batch.prompts):
        assert batch.tokens[row, length - 1] == ASSISTANT
        answer = [*TOKENIZER.encode(batch.answers[row]), END]
        assert batch.tokens[row, length : length + len(answer)].tolist() == answer


def test_batches_without_media_hold_none(folder):
    data = make(train=write(folder / "text.jsonl", ROWS[2:3]))
    (batch,) = data.train_dataloader()
    assert batch.images is None
    assert batch.mels is None
    assert batch.image_rows == batch.audio_rows == ()


def test_wrong_durations_in_rows_do_not_matter(folder):
    rows = [{"messages": turn([sound("hum.wav", duration=0.01)], "a hum")}]
    data = make(train=write(folder / "told.jsonl", rows))
    (batch,) = data.train_dataloader()
    assert (batch.tokens == AUDIO).sum() == 4


def test_videos_are_frames_with_their_times(folder):
    video = {"type": "video", "frames": ["red.png", "blue.png"], "times": [1.0, 1.8]}
    data = make(train=write(folder / "video.jsonl", [{"messages": turn([video], "it turns blue")}]))
    (batch,) = data.train_dataloader()
    slots = batch.tokens[0] == IMAGE
    assert len(batch.images) == 2
    time = batch.positions[0, 0, slots]
    assert (time - time[0]).tolist() == [0] * 4 + [10] * 4


# ---------------------------------------------------------------- length


def test_rows_that_are_too_long_lose_their_last_exchanges(folder):
    messages = turn([picture("red.png"), text("what?")], "red") + turn([picture("blue.png")], "blue" * 5)
    data_of = {}
    for limit in (60, 40):
        with pytest.warns(UserWarning, match="1 of 1 rows lost") if limit == 40 else nullcontext():
            data_of[limit] = make(train=write(folder / "long.jsonl", [{"messages": messages}]), max_tokens=limit)
    (full,), (cut,) = data_of[60].train_dataloader(), data_of[40].train_dataloader()
    assert (len(full.images), len(cut.images)) == (2, 1)
    assert cut.answers == ("red",)
    assert torch.equal(full.tokens[:, : cut.tokens.shape[1]], cut.tokens)
    assert cut.tokens[0, -1] == END


def test_rows_whose_first_exchange_is_too_long_are_left_out(folder):
    rows = [*ROWS, {"messages": turn("?" * 200, "no")}]
    with pytest.warns(UserWarning, match="1 of 5 rows left out: its first exchange takes more than data.max_tokens"):
        data = make(train=write(folder / "long.jsonl", rows))
    assert len(data.dataset("train").rows) == 4


def test_fifty_images_fit_if_their_tokens_do(folder):
    rows = [{"messages": turn([picture("red.png")] * 50, "red")}]
    with pytest.raises(UserError, match=r"no row that can be used.*data.max_tokens, 96"):
        make(train=write(folder / "many.jsonl", rows))
    (batch,) = make(train="many.jsonl", max_tokens=400).train_dataloader()
    assert len(batch.images) == 50


def test_audio_longer_than_the_context_is_left_out(folder):
    write_audio(folder / "long.wav", torch.zeros(160_000).index_fill(0, torch.arange(0, 160_000, 50), 0.1))
    rows = [*ROWS, {"messages": turn([sound("long.wav")], "nothing")}]
    with pytest.warns(UserWarning, match="1 of 5 rows left out: its first exchange takes more"):
        make(train=write(folder / "long.jsonl", rows))


# ---------------------------------------------------------------- batches, weights, resuming


def many(folder, number=60):
    rng = np.random.default_rng(0)
    rows = [{"messages": turn("x" * int(rng.integers(1, 60)), f"{index:03d}")} for index in range(number)]
    return write(folder / "many.jsonl", rows)


def test_an_epoch_holds_every_row_once_in_bounded_batches(folder):
    data = make(train=many(folder))
    batches = list(data.train_dataloader())
    assert sorted(row for batch in batches for row in batch.rows.tolist()) == list(range(60))
    assert all(batch.tokens.numel() <= 400 for batch in batches)
    again = [batch.rows.tolist() for batch in make(train="many.jsonl").train_dataloader()]
    assert again == [batch.rows.tolist() for batch in batches]


def test_weights_are_fractions_of_an_epoch(folder):
    lengths = [3, 9, 4, 8, 1, 2, 7, 6]
    assert [len(group) for group in groups(lengths, 0.25)] == [4, 4]
    assert sorted(np.concatenate(groups(lengths, 0.25)).tolist()) == list(range(8))
    assert max(lengths[row] for row in groups(lengths, 0.25)[0]) <= min(
        lengths[row] for row in groups(lengths, 0.25)[1]
    )
    assert [group.tolist() for group in groups(lengths, 2.0)] == [[row] for row in range(8)] * 2
    assert len(groups(lengths, 1.5)) == 12
    assert len(groups(lengths, 0.01)) == 1


def test_weighted_sources_and_replayed_text_are_mixed(folder):
    data = make(train={many(folder): 0.5, write(folder / "few.jsonl", ROWS[2:3]): 3.0}, replay={"corpus.txt": 1})
    rows = data.dataset("train").rows
    drawn = []
    loader = data.train_dataloader()
    for _ in range(2):
        found = [rows[row] for batch in loader for row in batch.rows.tolist()]
        drawn.append({row.where for row in found if "many" in row.where})
        assert sum("many" in row.where for row in found) == 30
        assert sum("few" in row.where for row in found) == 3
        assert sum(row.task == "replay" for row in found) == 1
    assert drawn[0] != drawn[1]


def test_all_of_replayed_text_is_scored(folder):
    (folder / "short.txt").write_text("some words", encoding="utf-8")
    data = make(train=write(folder / "one.jsonl", ROWS[2:3]), replay="short.txt")
    batch = next(batch for batch in data.train_dataloader() if "replay" in batch.tasks)
    row = batch.tasks.index("replay")
    assert batch.targets[row, :11].tolist() == [*TOKENIZER.encode("some words"), EOS]


def test_the_fingerprint_covers_rows_media_and_layout(folder):
    before = make().fingerprint
    assert make().fingerprint == before
    assert make(layout=MediaLayout(image_grid=(2, 2), mel_frames=4)).fingerprint != before
    Image.new("RGB", (17, 17)).save(folder / "red.png")
    changed = make().fingerprint
    assert changed != before
    write(folder / "val.jsonl", ROWS[:3])
    assert make().fingerprint != changed


# ---------------------------------------------------------------- errors


BAD = {
    "no messages": ({"text": "hello"}, "has no list of `messages`"),
    "empty": ({"messages": []}, "the conversation has no messages"),
    "unknown role": ({"messages": [{"role": "robot", "content": "hi"}]}, "role 'robot' is unknown"),
    "no answer": ({"messages": turn("hello")}, "no turn of the assistant"),
    "missing file": ({"messages": turn([picture("green.png")], "green")}, "green.png does not exist"),
    "no file": ({"messages": turn([{"type": "image"}], "green")}, "a part of type image names no file"),
    "video times": (
        {"messages": turn([{"type": "video", "frames": ["red.png"], "times": [0, 1]}], "red")},
        "a video has 1 frames",
    ),
    "duration": ({"messages": turn([sound("hum.wav", duration="long")], "a")}, "the duration 'long' is not a number"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_bad_rows_are_named_or_left_out_and_counted(folder, case):
    row, complaint = case
    path = write(folder / "bad.jsonl", [ROWS[2], row])
    with pytest.raises(UserError, match=f"bad.jsonl: row 2: .*{complaint}"):
        make(train=path)
    with pytest.warns(UserWarning, match="1 of 2 rows left out"):
        data = make(train=path, bad_rows="skip")
    assert len(data.dataset("train").rows) == 1


def test_lines_that_are_not_json_are_named(folder):
    (folder / "bad.jsonl").write_text("{}]\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"bad.jsonl: row 1: not JSON"):
        make(train="bad.jsonl")


def test_unreadable_media_are_named_or_left_out(folder):
    (folder / "blue.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"train.jsonl: row 4: .*blue.png"):
        list(make().train_dataloader())
    with pytest.warns(UserWarning, match="train: left out: train.jsonl: row 4"):
        batches = list(make(bad_rows="skip").train_dataloader())
    assert sum(len(batch.rows) for batch in batches) == 3


def test_a_model_without_vision_encoder_refuses_images(folder):
    with pytest.raises(UserError, match=r"train.jsonl: row 1: there is an image, and the model has no vision encoder"):
        make(layout=MediaLayout(mel_frames=8))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_tokens": 3}, "data.max_tokens is 3"),
        ({"batch_tokens": 50}, r"data.batch_tokens \(50\) must hold a row"),
        ({"tokenizer": "bpe"}, "data.tokenizer must be that of the Thinker"),
        ({"train": {"train.jsonl": 0.0}}, "the weight of train.jsonl is 0.0"),
        ({"val": "train.jsonl"}, "train.jsonl is in data.train and in data.val"),
        ({"train": []}, "data.train is an empty list"),
        ({"train": "nothing.jsonl"}, "nothing.jsonl: does not exist"),
        ({"train": "corpus.txt"}, "conversations are a .jsonl file"),
        ({"train": "hub:a:b:c:d"}, "does not name a data set"),
    ],
)
def test_invalid_arguments_are_refused(folder, options, complaint):
    with pytest.raises(UserError, match=complaint):
        make(**options)


def test_hub_data_sets_contain_their_media(folder):
    import datasets

    parts = [{"type": "image", "text": None}, {"type": "text", "text": "what?"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": [{"type": "text", "text": "red"}]}]
    table = datasets.Dataset.from_dict({"messages": [messages], "images": [[str(folder / "red.png")]]})
    table = table.cast_column("images", datasets.List(datasets.Image()))
    (folder / "hub").mkdir()
    table.to_parquet(str(folder / "hub" / "train.parquet"))
    data = make(train=f"hub:{folder / 'hub'}", cache_dir=str(folder / "cache"))
    (batch,) = data.train_dataloader()
    assert batch.answers == ("red",)
    assert batch.images[0, 0].mean() > 0.7


# ---------------------------------------------------------------- omni data check


def check(path, val, report):
    from omni.cli import main

    with suppress(SystemExit):
        main(["data", "check", str(path), "--val", str(val), "--json", str(report)])
    return json.loads(report.read_text(encoding="utf-8"))


def test_the_check_finds_all_faults_and_no_others(folder):
    Image.new("RGB", (16, 16), (0, 200, 0)).save(folder / "green.png")
    clean = write(folder / "clean.jsonl", [{"messages": turn([picture("green.png")], "green"), "task": "colour"}])
    found = check("train.jsonl", clean, folder / "report.json")
    assert found["findings"] == []
    assert found["figures"]["data"]["media"] == {"image": 3, "audio": 2}
    (folder / "bad.png").write_bytes(b"no image")
    write_audio(folder / "silent.wav", torch.zeros(8000))
    rows = [
        ROWS[2],
        {"messages": turn([picture("none.png")], "x")},
        {"messages": turn([picture("bad.png")], "x")},
        {"messages": turn([sound("silent.wav")], "x")},
        {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": turn("a question", "")},
        {"messages": turn("a question", "")},
        {"messages": turn([picture("red.png")], "x")},
        {"messages": turn("say it", [{"type": "text", "text": "it"}, sound("never.wav")])},
    ]
    found = check("train.jsonl", write(folder / "bad.jsonl", rows), folder / "report.json")
    kinds = sorted((one["kind"], one["where"].rpartition(" ")[2]) for one in found["findings"])
    assert kinds == [
        ("bad conversation", "5"),
        ("duplicate conversation", "7"),
        ("empty answer", "6"),
        ("empty answer", "7"),
        ("leaked conversation", "1"),
        ("leaked medium", "8"),
        ("missing medium", "2"),
        ("missing medium", "9"),
        ("silent audio", "4"),
        ("unreadable medium", "3"),
    ]
