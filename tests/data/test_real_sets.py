"""Public data sets in the schemas that they have on the Hub, by replicas of a few rows."""

import errno
from pathlib import Path

import datasets
import httpx
import huggingface_hub
import pytest
import yaml
from datasets.arrow_writer import ArrowWriter
from datasets.packaged_modules.parquet.parquet import Parquet
from huggingface_hub.errors import GatedRepoError
from toy_hub import FakeHub, write_replicas

from omni.cli import main
from omni.data.conversations.opening import open_conversations
from omni.data.images.opening import open_images
from omni.data.images.sources import Location
from omni.data.loading.bad_rows import BadRowPolicy, RowErrors
from omni.data.loading.hub import HubName, HubSplit
from omni.data.loading.known_sets import KNOWN_SETS
from omni.data.speech.opening import open_utterances
from omni.data.text.corpus import open_corpus
from omni.errors import UserError
from omni.media.audio import read_audio

CONFIGS = Path(__file__).parents[2] / "configs"
VOICE = {"MikhailT/lj-speech": {"text": "normalized_text"}}
SPOKEN = {"gpt-omni/VoiceAssistant-400K": {"audio": "question_audio", "response": "answer"}}
STREAMING = pytest.mark.parametrize("streaming", [False, True])


@pytest.fixture(scope="session")
def replicas(tmp_path_factory):
    return write_replicas(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def hub(replicas, workplace, monkeypatch):
    return FakeHub(replicas, monkeypatch)


@STREAMING
@pytest.mark.parametrize(
    ("entry", "documents"),
    [
        ("hub:roneneldan/TinyStories@main::train", 12),
        ("hub:Salesforce/wikitext@main:wikitext-103-raw-v1:train", 8),  # blank lines are no documents
        ("hub:HuggingFaceFW/fineweb-edu@main:sample-10BT:train[2:9]", 7),
        ("hub:roneneldan/TinyStories@main::train[5:]", 7),
    ],
)
def test_text(hub, workplace, entry, documents, streaming):
    (source,) = open_corpus([entry], cache_dir=workplace / "cache", streaming=streaming)
    texts = list(source.read())
    assert len(texts) == documents
    assert hub.revisions == {HubName.parse(entry).repository: "main"}
    if streaming:
        shares = [set(source.stream(share, 2, 0)) for share in range(2)]
        assert shares[0] | shares[1] == set(texts)
        assert not shares[0] & shares[1]


@STREAMING
def test_speech(hub, workplace, streaming):
    entries = ["hub:openslr/librispeech_asr@main:clean:train.100", "hub:MikhailT/lj-speech@main::full[1:4]"]
    read, voice = open_utterances(entries, cache_dir=workplace / "cache", columns=VOICE)
    if streaming:
        rows = [[row for share in range(2) for row in one.stream(share, 2, 0)] for one in (read, voice)]
    else:
        rows = [[(row, one.audio(number, row)) for number, row in enumerate(one.rows())] for one in (read, voice)]
    assert [len(each) for each in rows] == [12, 3]
    assert {row.speaker for row, _ in rows[0]} == {"19", "20", "21"}
    assert sorted(row.text for row, _ in rows[1]) == ["a dog ran home", "birds sing at dawn", "we walk to the sea"]
    assert all(abs(len(read_audio(audio)) - 24_000) < 10 for each in rows for _, audio in each)  # at 16 kHz


@STREAMING
def test_images(hub, workplace, streaming):
    names = [f"caption_{number}" for number in range(5)]
    columns = {"jxie/flickr8k": {"captions": names}}
    location = Location(cache_dir=workplace / "cache", streaming=streaming, columns=columns)
    errors = RowErrors("train", BadRowPolicy())
    for entry in ("hub:uoft-cs/cifar10@main::train", "hub:zh-plus/tiny-imagenet@main::train"):
        rows = list(open_images(entry, "train", location).rows(errors))
        assert [row.labels["label"] for row in rows[:4]] == ["airplane", "automobile", "bird", "airplane"]
        assert rows[0].read().shape[0] == 3
    rows = list(open_images("hub:jxie/flickr8k@main", "val", location).rows(errors))
    assert rows[1].captions == tuple(f"a dog ran home {number} ." for number in range(5))
    columns["jxie/flickr8k"]["captions"] = ["caption_7"]
    with pytest.raises(UserError, match=r"flickr8k::train: data.columns names 'caption_7', but it has only caption_0"):
        open_images("hub:jxie/flickr8k@main", "train", location)


@STREAMING
@pytest.mark.parametrize(
    ("entry", "kinds", "answer", "task"),
    [
        ("HuggingFaceM4/the_cauldron@main:clevr:train", ["image"], "Yes.", "clevr"),
        ("HuggingFaceM4/the_cauldron@main:nlvr2:train[3:]", ["image", "image"], "Yes.", "nlvr2"),
        ("HuggingFaceH4/llava-instruct-mix-vsft", ["image"], "A picture.", "llava-instruct-mix-vsft"),
        ("gpt-omni/VoiceAssistant-400K@main::train[2:9]", ["audio"], "I am a voice.", "VoiceAssistant-400K"),
        ("HuggingFaceTB/smol-smoltalk@main", [], "Hello to you.", "smol-smoltalk"),
        ("tatsu-lab/alpaca", [], "2", "alpaca"),
    ],
)
def test_conversations(hub, workplace, entry, kinds, answer, task, streaming):
    (source,) = open_conversations([f"hub:{entry}"], cache_dir=workplace / "cache", columns=SPOKEN)
    rows = [row for share in range(2) for row in source.stream(share, 2, 0)] if streaming else list(source.rows())
    assert len(rows) == {"[3:]": 9, "[2:9]": 7}.get(entry[entry.find("[") :], 12)
    for row in rows:
        assert [medium.kind for medium in row.media] == kinds
        assert all(isinstance(medium.files[0], bytes) == streaming for medium in row.media)  # or on disk
        assert all(isinstance(medium.sound, bytes) for medium in row.media)
        assert len({medium.sound for medium in row.media}) == len(kinds)
        last = row.messages[-1]["content"]
        assert (last if isinstance(last, str) else last[0]["text"]) == answer
        assert row.task == task


def test_several_questions_about_an_image_are_one_conversation(hub, workplace):
    (source,) = open_conversations(["hub:HuggingFaceM4/the_cauldron@main:clevr:train"], cache_dir=workplace)
    rows = list(source.rows())
    assert [len(row.messages) for row in rows[:4]] == [2, 4, 2, 4]
    assert [part["type"] for part in rows[1].messages[0]["content"]] == ["image", "text"]
    assert rows[1].messages[2]["content"] == "Question 1: what is it?"


def test_a_slice_is_read_once_and_then_without_the_hub(hub, workplace):
    entry = "hub:HuggingFaceFW/fineweb-edu@main:sample-10BT:train[0:4]"
    read = [list(open_corpus([entry], cache_dir=workplace / "cache")[0].read()) for _ in range(2)]
    hub.error = ConnectionError("no network")
    assert list(open_corpus([entry], cache_dir=workplace / "cache")[0].read()) == read[0] == read[1]
    (source,) = open_corpus([entry.replace("[0:4]", "[0:5]")], cache_dir=workplace / "cache")
    with pytest.raises(UserError, match=r"train\[0:5\]: the Hub cannot be reached.*omni data fetch"):
        list(source.read())


def test_an_interrupted_slice_resumes_after_its_last_complete_part(hub, workplace, monkeypatch):
    monkeypatch.setattr("omni.data.loading.hub_slices._PART", 2)
    entry = "hub:roneneldan/TinyStories@main::train[1:8]"
    whole = list(open_corpus([entry], cache_dir=workplace / "other")[0].read())
    opened = HubSplit._open
    asked = []

    def breaking(self, *, streaming):
        table = opened(self, streaming=streaming)

        def rows(batch):
            asked.extend(batch["text"])
            if len(asked) > 4 and hub.error is None:
                raise httpx.ReadTimeout("timed out")
            return batch

        return table.map(rows, batched=True, batch_size=2) if streaming else table

    monkeypatch.setattr(HubSplit, "_open", breaking)
    with pytest.raises(UserError, match=r"train\[1:8\]: the Hub cannot be reached: .*then run the same command"):
        list(open_corpus([entry], cache_dir=workplace / "cache")[0].read())
    monkeypatch.setattr(HubSplit, "_open", opened)
    assert list(open_corpus([entry], cache_dir=workplace / "cache")[0].read()) == whole
    folder = next(path for path in (workplace / "cache/hub/slices").iterdir() if path.is_dir())
    assert len(list(folder.glob("*.arrow"))) == 4
    assert not list(folder.glob(".*"))  # nothing half-written


def error_of(status, kind):
    response = httpx.Response(status, request=httpx.Request("GET", "https://example.test/api"))
    return kind("not authorized", response=response)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConnectionError("no route to host"), "the Hub cannot be reached: check the network"),
        (httpx.ConnectTimeout("timed out"), "the Hub cannot be reached: check the network"),
        (error_of(403, GatedRepoError), "gated: accept its terms on its page on the Hub, and log in"),
        (OSError(errno.ENOSPC, "No space left on device"), "no room is left on the disk"),
        (RuntimeError("Dataset scripts are no longer supported, but found x.py"), "cannot be loaded (Dataset scripts"),
    ],
)
def test_a_hub_that_fails_is_one_line(hub, workplace, error, line):
    hub.error = error
    for sources in (open_corpus, open_utterances):
        (source,) = sources(["hub:roneneldan/TinyStories@main::train"], cache_dir=workplace / "cache")
        with pytest.raises(UserError) as raised:
            list(source.rows_or_errors())
        assert str(raised.value).startswith(f"hub:roneneldan/TinyStories::train: {line}")
        assert "\n" not in str(raised.value)


def test_unknown_names_and_changed_columns_are_named(hub, workplace):
    (source,) = open_corpus(["hub:nobody/nothing@main::train"], cache_dir=workplace / "cache")
    with pytest.raises(UserError, match=r"nobody/nothing::train: cannot be loaded \(Dataset 'nobody/nothing' doesn't"):
        list(source.read())
    columns = {"MikhailT/lj-speech": {"text": "normalised"}}
    (voice,) = open_utterances(["hub:MikhailT/lj-speech@main::full"], cache_dir=workplace / "cache", columns=columns)
    line = r"full: data.columns names 'normalised', but it has only audio, .*: correct the name, or pin a revision"
    with pytest.raises(UserError, match=line):
        list(voice.rows_or_errors())


@pytest.mark.parametrize("entry", ["hub:a/b[0:4]", "hub:a/b:c[0:4]", "hub:a/b:c:train[4:4]"])
def test_rows_need_a_split_and_an_end_after_their_start(entry):
    with pytest.raises(UserError, match="names no rows: write hub:OWNER/NAME:CONFIG:SPLIT"):
        HubName.parse(entry)


def entries_of(value):
    """The names of the Hub in the data arguments of a configuration."""
    if isinstance(value, dict):
        return [entry for key, each in value.items() for entry in (*entries_of(key), *entries_of(each))]
    if isinstance(value, list):
        return [entry for each in value for entry in entries_of(each)]
    return [value] if isinstance(value, str) and value.startswith("hub:") else []


def test_known_sets_are_those_of_the_configurations():
    read = {
        entry
        for path in (CONFIGS / "real").glob("*.yaml")
        for entry in entries_of(yaml.safe_load(path.read_text(encoding="utf-8")))
    }
    assert {name for known in KNOWN_SETS.values() for name in known.names} == read


def test_sets_are_fetched_once_and_then_read_without_the_hub(hub, workplace, capsys):
    main(["data", "fetch", "fineweb-edu", "hub:tatsu-lab/alpaca@main::train", "flickr8k"])
    out = capsys.readouterr().out
    assert "hub:HuggingFaceFW/fineweb-edu:sample-10BT:train[0:100000]: 12 rows\n" in out
    assert "hub:jxie/flickr8k::validation: 12 rows\n" in out
    assert out.endswith("reads them without a network\n")
    hub.error = ConnectionError("offline")
    main(["data", "fetch", "fineweb-edu"])
    assert ": 12 rows\n" in capsys.readouterr().out


def test_what_a_pipeline_reads_is_fetched(hub, workplace, capfd, fails):
    stage = f"{{config: {CONFIGS / 'real/audio.yaml'}, metric: val/wer}}"
    Path("chain.yaml").write_text(f"name: a\nstages: {{audio: {stage}}}\n", encoding="utf-8")
    main(["data", "fetch", "chain.yaml"])
    splits = ("train.100[0:28539]", "validation[0:2703]", "test[0:2620]")
    lines = [f"hub:openslr/librispeech_asr:clean:{split}: 12 rows" for split in splits]
    assert capfd.readouterr().out.splitlines()[:3] == lines
    Path("chain.yaml").write_text(
        f"name: a\nstages: {{audio: {stage.replace('real/audio', 'audio')}}}\n", encoding="utf-8"
    )
    assert "chain.yaml: its stages read nothing from the Hub" in fails(main, ["data", "fetch", "chain.yaml"])


def test_commits_are_written_into_the_files_of_a_pipeline(hub, workplace, capfd, fails):
    main(["configs", "copy", "real/audio.yaml", "--out", "mine"])
    chain, config = Path("mine/chain.yaml"), Path("mine/real/audio.yaml")
    overrides = "{data.init_args.test: 'hub:openslr/librispeech_asr:clean:test[0:3]'}"
    chain.write_text(
        f"name: a\nstages: {{audio: {{config: real/audio.yaml, metric: val/wer, overrides: {overrides}}}}}\n"
    )
    before, commit = config.read_text(encoding="utf-8"), "0123456789abcdef" * 2 + "01234567"
    hub.commits["openslr/librispeech_asr"] = commit
    capfd.readouterr()
    main(["data", "fetch", str(chain), "--pin"])
    lines = capfd.readouterr().out.splitlines()
    pinned = f"hub:openslr/librispeech_asr@{commit}"
    assert f"hub:openslr/librispeech_asr@main is now {pinned}" in lines
    assert f"hub:openslr/librispeech_asr is now {pinned}" in lines
    assert hub.revisions["openslr/librispeech_asr"] == commit
    assert config.read_text(encoding="utf-8") == before.replace("asr@main", f"asr@{commit}") != before
    assert f"hub:openslr/librispeech_asr@{commit}:clean:test[0:3]" in chain.read_text(encoding="utf-8")
    main(["data", "fetch", str(chain), "--pin"])
    assert "is now" not in capfd.readouterr().out
    assert "--pin writes commits into the files of a pipeline" in fails(main, ["data", "fetch", "alpaca", "--pin"])


def test_files_that_come_with_omni_are_not_pinned(hub, workplace, fails):
    stage = f"{{config: {CONFIGS / 'real/audio.yaml'}, metric: val/wer}}"
    Path("chain.yaml").write_text(f"name: a\nstages: {{audio: {stage}}}\n", encoding="utf-8")
    assert "@main: its commit is not known" in fails(main, ["data", "fetch", "chain.yaml", "--pin"])
    hub.commits["openslr/librispeech_asr"] = 40 * "a"
    assert "real/audio.yaml, which comes with omni: make a copy" in fails(
        main, ["data", "fetch", "chain.yaml", "--pin"]
    )


@pytest.mark.parametrize("rows", ["", "[5:]"])
def test_a_downloaded_set_is_read_offline(replicas, workplace, monkeypatch, rows):
    files = {"full": [str(path) for path in sorted((replicas / "MikhailT/lj-speech").glob("*/full-*"))]}
    cache = workplace / "cache/hub"
    named = {"dataset_name": "lj-speech", "config_name": "default", "hash": "1a2b"}
    Parquet(cache_dir=str(cache), data_files=files, **named).download_and_prepare()
    (cache / "MikhailT___lj-speech").mkdir()  # where a download from the Hub lies
    next(path for path in (cache / "lj-speech").iterdir() if path.is_dir()).rename(
        cache / "MikhailT___lj-speech/default"
    )
    for settings, name in ((datasets.config, "HF_HUB_OFFLINE"), (huggingface_hub.constants, "HF_HUB_OFFLINE")):
        monkeypatch.setattr(settings, name, True)
    entry = f"hub:MikhailT/lj-speech@main::full{rows}"
    (voice,) = open_utterances([entry], cache_dir=workplace / "cache", columns=VOICE)
    read = list(voice.rows())
    assert len(read) == (7 if rows else 12)
    assert isinstance(voice.audio(0, read[0]), bytes)
    (other,) = open_utterances(["hub:MikhailT/other@main::full"], cache_dir=workplace / "cache")
    with pytest.raises(UserError, match="other::full: the Hub cannot be reached"):
        list(other.rows())


def test_known_sets_are_listed(capsys):
    main(["data", "list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(KNOWN_SETS) + 1]] == list(KNOWN_SETS)
    assert "CC BY 4.0" in next(line for line in lines if line.startswith("librispeech"))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (None, "moon: not a known data set: there are tinystories, wikitext-103,"),
        (error_of(401, GatedRepoError), "gated: accept its terms"),
        (ConnectionError("no route to host"), "the Hub cannot be reached"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "no room is left on the disk (or the quota): make room, then",
        ),
    ],
)
def test_a_set_that_cannot_be_fetched_is_one_line(hub, fails, error, line):
    hub.error = error
    assert line in fails(main, ["data", "fetch", "moon" if error is None else "alpaca"])


def test_a_disk_that_fills_leaves_the_complete_parts(hub, workplace, fails, monkeypatch):
    monkeypatch.setattr("omni.data.loading.hub_slices._PART", 4)
    write = ArrowWriter.write_batch

    def full(self, batch, *args, **options):
        if batch["text"][0].endswith("4"):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, batch, *args, **options)

    monkeypatch.setattr(ArrowWriter, "write_batch", full)
    assert "no room is left on the disk" in fails(main, ["data", "fetch", "fineweb-edu"])
    assert [path.name for path in workplace.rglob("*.arrow")] == ["000000.arrow"]
    monkeypatch.setattr(ArrowWriter, "write_batch", write)
    main(["data", "fetch", "fineweb-edu"])
    assert len(list(workplace.rglob("*.arrow"))) == 3
