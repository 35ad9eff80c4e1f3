"""The world's conversations: true, about existing files, disjoint from validation, and complete on disk."""

import itertools
import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from toy_world import rows, write

from omni.data.conversations.data import ConversationData
from omni.errors import UserError
from omni.synthetic.dialogues import ConversationJob, make_dialogue
from omni.synthetic.language import NUMBERS
from omni.synthetic.prompts import TRANSCRIBE, VERIFY, dense_description, sample_claim
from omni.synthetic.scene import HELD_OUT, Group, scene_at
from omni.synthetic.speech import SPEAKERS, sentence_split
from omni.text.media_positions import MediaLayout

SIZES = {"documents": 3, "val_documents": 1, "utterances": 12, "val_utterances": 3, "pictures": 40, "val_pictures": 24}
SIZES |= {"narrations": 0, "val_narrations": 0}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A small world."""
    out = tmp_path_factory.mktemp("world")
    write(out, **SIZES)
    return out


@pytest.fixture(scope="module")
def dialogues():
    """Conversations of a large world, by split."""
    sizes = {"train": (500, 20000, 6000), "val": (240, 1000, 300)}
    return {
        split: [make_dialogue(ConversationJob(0, split, index, *counts)) for index in range(number)]
        for split, (number, *counts) in sizes.items()
    }


def parts(messages, kind):
    contents = [message["content"] for message in messages]
    return [part[kind] for content in contents if isinstance(content, list) for part in content if part["type"] == kind]


def texts(messages):
    contents = [message["content"] for message in messages]
    return [content for content in contents if isinstance(content, str)] + parts(messages, "text")


@pytest.mark.parametrize("seed", range(20))
def test_answers_about_claims_are_right(seed):
    rng = Random(seed)
    scene, other = scene_at(0, "train", seed), scene_at(0, "train", seed + 100)
    words, true = sample_claim(scene, rng, other)
    amount, *kind = re.fullmatch(r"There (?:is|are) (.+)\.", words)[1].split()
    number = 0 if amount == "no" else NUMBERS.index(amount)
    kind = [word.removesuffix("es") if word == "crosses" else word.removesuffix("s") for word in kind]
    axes = {"size": ("small", "large"), "shape": ("circle", "square", "triangle", "star", "cros", "cross", "heart")}
    found = {}
    for word in kind:
        word = "cross" if word == "cros" else word
        if word != "shape":
            axis = next((axis for axis, values in axes.items() if word in values), "colour")
            found[axis] = word
    assert (scene.count(Group(**found)) == number) == true
    if not true:
        assert other.count(Group(**found)) == number


def test_captions_name_every_object_in_one_form():
    scene = scene_at(0, "train", 5)
    answers = {dense_description(scene, Random(seed)).answer for seed in range(5)}
    assert len(answers) == 1
    assert answers.pop().count("there is") == len(scene.items)


def test_training_has_detailed_questions_and_validation_every_task(dialogues):
    looks = [one for one in dialogues["train"] if one.task == "look"]
    dense = [one.messages[1]["content"] for one in looks if one.messages[1]["content"].startswith("In row")]
    assert 0.25 < len(dense) / len(looks) < 0.45
    assert max(caption.count("there is") for caption in dense) == 4
    judged = [one for one in looks if any(VERIFY[0] in text or VERIFY[1] in text for text in texts(one.messages))]
    assert 0.7 < len(judged) / len(looks) < 0.95
    assert min(len(one.messages) for one in looks) >= 2
    assert Counter(len(one.messages) // 2 for one in looks).most_common(1)[0][0] in (11, 12)
    placed = [one for one in looks if any(text.startswith("In which ") for text in texts(one.messages))]
    assert len(placed) / len(looks) > 0.8
    assert not any("In which" in str(one.messages) for one in dialogues["val"])
    assert Counter(one.task for one in dialogues["val"]) == dict.fromkeys(
        ("count", "colour", "shape", "relation", "yes-no", "compare", "spoken", "both", "command", "text",
         "transcription", "composition"), 20)  # fmt: skip
    assert {len(one.messages) for one in dialogues["val"]} == {2}


def voices(message):
    """The recordings of a user's turn, by name."""
    return [Path(file).stem for file in parts([message], "audio")] if message["role"] == "user" else []


def test_training_often_asks_for_transcripts(dialogues):
    own = [one for one in dialogues["train"] if one.prompts]
    requests = 0
    for one in own:
        spoken, last = {voice.id: voice.text for voice in one.prompts}, ""
        for message, answer in itertools.pairwise(one.messages):
            last = [last, *voices(message)][-1]
            if message["content"] in TRANSCRIBE:
                assert answer["content"] == spoken[last]
                requests += 1
    assert 0.1 < requests / sum(len(one.prompts) for one in own) < 0.3


def test_in_training_a_recording_is_used_for_several_questions(dialogues):
    for task in ("spoken", "both", "command"):
        counts = Counter(len(one.prompts) for one in dialogues["train"] if one.task == task)
        assert max(counts) == 3 == counts.most_common(1)[0][0]
        assert {len(one.prompts) for one in dialogues["val"] if one.task == task} == {1}
    for one in dialogues["train"]:
        recordings = [name for message in one.messages for name in voices(message)]
        if one.prompts:
            assert recordings == [said.id for said in one.prompts]
            assert len({said.speaker for said in one.prompts}) > 1 or len(one.prompts) < 3
        elif one.task == "transcription":
            assert len(recordings) == 3


def test_some_answers_are_also_spoken_by_the_narrator(dialogues):
    spoken = [one for one in dialogues["train"] if one.answer is not None]
    assert 5 < len(spoken) < 40
    assert all(one.answer is None for one in dialogues["val"])
    for one in spoken:
        text, audio = one.messages[1]["content"]
        assert text == {"type": "text", "text": one.answer.text}
        assert audio["audio"] == f"train/{one.answer.id}.wav"
        assert audio["speaker"] == one.answer.speaker == SPEAKERS["narrator"][0]


def test_spoken_claims_have_both_answers(dialogues):
    answers = Counter(one.messages[1]["content"] for one in dialogues["val"] if one.task == "both")
    assert set(answers) == {"yes", "no"}
    assert min(answers.values()) >= 4


def test_voices_and_sentences_of_validation_are_new(dialogues):
    for split, some in dialogues.items():
        said = [voice for one in some for voice in one.prompts]
        assert len(said) > 20
        assert all(one.speaker in SPEAKERS[split] and sentence_split(one.text) == split for one in said)


def test_held_out_pairs_are_only_in_conversations_of_composition(dialogues):
    pair = re.compile("|".join(f"{colour} {shape}" for colour, shape in HELD_OUT))
    for one in [*dialogues["train"], *dialogues["val"]]:
        if one.task != "composition":
            assert not pair.search("\n".join(texts(one.messages)))


def test_composition_shows_a_held_out_pair(dialogues):
    for one in dialogues["val"]:
        if one.task == "composition":
            (question,), answer = texts(one.messages[:1]), one.messages[1]["content"]
            assert one.image is not None
            assert any(answer in pair for pair in HELD_OUT)
            assert answer not in question


def test_named_files_exist_and_training_reads_them(world, monkeypatch):
    for split in ("train", "val"):
        found = rows(world / "conversations", split)
        assert len(found) == SIZES["pictures" if split == "train" else "val_pictures"]
        for row in found:
            for kind in ("image", "audio"):
                for file in parts(row["messages"], kind):
                    assert (world / "conversations" / file).resolve().is_file()
    folder = world / "conversations"
    data = ConversationData(
        str(folder / "train.jsonl"), str(folder / "val.jsonl"), tokenizer="bytes", image_size=64, num_mels=16,
        max_tokens=2000, batch_tokens=4000,
    )  # fmt: skip
    data.setup()
    data.set_layout(MediaLayout(image_grid=(4, 4), mel_frames=8))
    asked = [task for batch in data.val_dataloader() for task in batch.tasks]
    assert Counter(asked) == dict.fromkeys(data.tasks, 2)


def test_the_same_seed_gives_the_same_files_and_a_complete_world_is_kept(world, tmp_path, capsys):
    write(tmp_path, **SIZES)
    for name in ("train.jsonl", "val.jsonl", "train.sha256", "val.sha256"):
        assert (tmp_path / "conversations" / name).read_bytes() == (world / "conversations" / name).read_bytes()
    write(tmp_path, **SIZES)
    assert "is up to date" in capsys.readouterr().out
    (tmp_path / "conversations" / "val" / "world-val-000011.png").unlink()
    write(tmp_path, **SIZES)
    assert "wrote" in capsys.readouterr().out
    assert (tmp_path / "conversations" / "val" / "world-val-000011.png").is_file()
    write(tmp_path, **SIZES, conversations=0, val_conversations=0)
    assert not (tmp_path / "conversations").exists()


def test_errors_are_reported(tmp_path):
    with pytest.raises(UserError, match="--conversations is 3: they are about pictures and speech"):
        write(tmp_path, documents=1, utterances=0, conversations=3)
    (tmp_path / "conversations" / "train").mkdir(parents=True)
    own = tmp_path / "conversations" / "train" / "world-train-000001-mine.wav"
    own.touch()
    with pytest.raises(UserError, match=r"world-train-000001-mine.wav was not written by `omni data world`"):
        write(tmp_path, **SIZES)
    own.unlink()
    (tmp_path / "conversations" / "train.jsonl").write_text('{"messages": []}\n', encoding="utf-8")
    with pytest.raises(UserError, match="was not written by `omni data world`"):
        write(tmp_path, **SIZES)
