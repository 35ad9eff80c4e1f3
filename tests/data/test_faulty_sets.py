"""Public data sets with faults, by replicas: missing columns, broken media, gated sets, full disks, no network."""

import errno
import warnings

import datasets
import httpx
import huggingface_hub
import pytest
from datasets import Dataset, Features
from datasets.arrow_writer import ArrowWriter
from datasets.exceptions import DatasetNotFoundError
from toy_hub import REPLICAS, FakeHub, png, sound, stored

from omni.cli import main
from omni.data.conversations.data import ConversationData
from omni.data.images.data import ImageData
from omni.data.loading.hub import HubSplit
from omni.data.speech.data import SpeechData
from omni.data.text.data import TextData
from omni.errors import UserError
from omni.text.media_positions import MediaLayout

ROWS = 12
BROKEN = 5  # number of the row whose medium is broken
STREAMING = pytest.mark.parametrize("streaming", [False, True])


def write(folder, repository, *, without=(), change=None, config="default", splits=("train", "validation")):
    """A replica of a set without some of its columns; `change` is applied to each row of `train`."""
    _, features, row = REPLICAS[repository, config]
    features = Features({name: kind for name, kind in features.items() if name not in without})
    home = folder / repository
    home.mkdir(parents=True)
    for first, split in enumerate(splits):
        cells = [row(100 * first + number) for number in range(ROWS)]
        if change is not None and split == "train":
            cells = [change(number, cell) for number, cell in enumerate(cells)]
        cells = [{name: cell[name] for name in features} for cell in cells]
        Dataset.from_list(cells, features=stored(features)).cast(features).to_parquet(home / f"{split}-0.parquet")
    listed = "".join(f"\n  - split: {split}\n    path: {split}-*" for split in splits)
    card = f"---\nconfigs:\n- config_name: {config}\n  data_files:{listed}\n---\n"
    (home / "README.md").write_text(card, encoding="utf-8")


@pytest.fixture
def hub(tmp_path_factory, workplace, monkeypatch):
    datasets.disable_progress_bars()
    return FakeHub(tmp_path_factory.mktemp("hub"), monkeypatch)


class Text:
    """Each kind of data: a replica, the column that is taken away, what the error says, and the data module."""

    name, config, column = "HuggingFaceFW/fineweb-edu", "sample-10BT", "text"
    told = r"fineweb-edu:sample-10BT:\w+: no column 'text', only \['dump', .*: set data.text_column"

    @staticmethod
    def make(name, **options):
        streamed = {"shuffle_buffer": 4} if options["streaming"] else {}
        options = {"tokenizer": "bytes", "context": 16, "batch_size": 2, **options, **streamed}
        data = TextData(f"hub:{name}@main:sample-10BT:train", f"hub:{name}@main:sample-10BT:validation", **options)
        data.setup()
        return data


class Speech:
    name, config, column = "openslr/librispeech_asr", "clean", "audio"
    told = r"librispeech_asr:clean:\w+: no column `audio`, only \['chapter_id'.*: name it in data.columns"

    @staticmethod
    def make(name, **options):
        data = SpeechData(
            f"hub:{name}@main:clean:train", f"hub:{name}@main:clean:validation", num_mels=16, batch_seconds=6,
            max_duration=4, **options,
        )  # fmt: skip
        data.setup()
        return data

    @staticmethod
    def broken(cell, content):
        return {**cell, "audio": {**cell["audio"], "bytes": content}}


class Transcripts(Speech):
    column = "text"
    told = (
        r"12 rows left out\); the first, hub:.*: row 1: no text in 'text', only \['chapter_id'.*: set data.text_column"
    )


class Pictures:
    name, config, column = "zh-plus/tiny-imagenet", "default", "image"
    told = r"tiny-imagenet::train: no column of images, only label: name another set, or pin a revision"

    @staticmethod
    def make(name, **options):
        data = ImageData(
            f"hub:{name}@main::train", f"hub:{name}@main::validation", image_size=16, batch_size=2, memory_gb=0,
            shuffle_buffer=4, **options,
        )  # fmt: skip
        data.setup("fit")
        return data

    @staticmethod
    def broken(cell, content):
        return {**cell, "image": {**cell["image"], "bytes": content}}


class Labels(Pictures):
    column, told = "label", "data.train has neither labels nor captions: there is nothing to learn from"


class Talk:
    name, config, column = "HuggingFaceM4/the_cauldron", "clevr", "texts"
    told = r"clevr:\w+: neither conversations \(messages, .* nor `audio` among its columns, \['images'\]: name them in"

    @staticmethod
    def make(name, **options):
        data = ConversationData(
            f"hub:{name}@main:clevr:train", f"hub:{name}@main:clevr:validation", tokenizer="bytes", num_mels=16,
            max_tokens=200, batch_tokens=300, **options,
        )  # fmt: skip
        data.set_layout(MediaLayout(image_grid=(2, 2), mel_frames=8))
        data.setup()
        return data

    @staticmethod
    def broken(cell, content):
        return {**cell, "images": [{**cell["images"][0], "bytes": content}]}


KINDS = {kind.__name__: kind for kind in (Text, Speech, Transcripts, Pictures, Labels, Talk)}
MEDIA = {kind.__name__: kind for kind in (Speech, Pictures, Talk)}


def epochs(data, streaming, number=1):
    """Number of rows of each epoch."""
    batches = data.stream() if streaming else data.train_dataloader()
    return [sum(len(batch.rows) for batch in batches) for _ in range(number)]


def spoilt(kind, numbers, content=None):
    """A change that breaks the media of some rows: their second half is gone, or they have this content."""

    def change(number, cell):
        if number not in numbers:
            return cell
        whole = {"Speech": lambda: cell["audio"], "Pictures": lambda: cell["image"], "Talk": lambda: cell["images"][0]}
        whole = whole[kind.__name__]()["bytes"]
        return kind.broken(cell, content or whole[: len(whole) // 2])

    return change


@STREAMING
@pytest.mark.parametrize("kind", KINDS)
def test_a_column_that_is_missing_ends_in_one_line(hub, kind, streaming):
    kind = KINDS[kind]
    write(hub.folder, kind.name, config=kind.config, without=[kind.column])
    with pytest.raises(UserError, match=kind.told) as refused:
        epochs(kind.make(kind.name, streaming=streaming, bad_rows="skip"), streaming)
    assert "\n" not in str(refused.value)


def test_the_check_ends_or_counts_where_a_column_is_missing(hub, fails):
    write(hub.folder, Speech.name, config="clean", without=["audio"])
    entry = f"hub:{Speech.name}@main:clean:train"
    assert "no column `audio`, only" in fails(main, ["data", "check", entry])


@pytest.mark.filterwarnings("ignore:train")
@STREAMING
@pytest.mark.parametrize("kind", MEDIA)
def test_a_medium_that_is_broken_is_named_and_left_out_in_the_middle_of_an_epoch(hub, kind, streaming):
    kind = MEDIA[kind]
    write(hub.folder, kind.name, config=kind.config, change=spoilt(kind, [BROKEN]))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        data = kind.make(kind.name, streaming=streaming, bad_rows="skip", num_workers=0)
        read = epochs(data, streaming, 2)
    assert read[0] == read[1]
    assert 8 <= read[0] < ROWS  # whole batches
    place = f"hub:{kind.name}:{'' if kind.config == 'default' else kind.config}:train: row {BROKEN + 1}: "
    assert sum(place in str(each.message) for each in said) == 1
    with pytest.raises(UserError, match=r"bad_rows: skip leaves such rows out") as refused:
        epochs(kind.make(kind.name, streaming=streaming, bad_rows="error", num_workers=0), streaming)
    assert str(refused.value).startswith(place)
    assert "\n" not in str(refused.value)


@pytest.mark.filterwarnings("ignore:train")
@STREAMING
@pytest.mark.parametrize("kind", MEDIA)
def test_media_that_are_broken_alike_are_counted_each(hub, kind, streaming):
    kind = MEDIA[kind]
    whole = sound(1, 16_000)["bytes"] if kind is Speech else png(1)["bytes"]
    write(hub.folder, kind.name, config=kind.config, change=spoilt(kind, range(3, 6), whole[: len(whole) // 2]))
    options = {"streaming": streaming, "bad_rows": "skip", "num_workers": 0}
    with pytest.raises(UserError, match=r"data\.train: more than 2 rows cannot be used") as refused:
        epochs(kind.make(kind.name, max_bad_rows=2, **options), streaming)
    assert all(f"row {number}: " in str(refused.value) for number in (4, 5, 6))
    assert epochs(kind.make(kind.name, max_bad_rows=3, **options), streaming)[0] >= 6


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DatasetNotFoundError("Dataset 'a/b' is a gated dataset on the Hub. You must be authenticated."), "gated: acc"),
        (OSError("Not enough disk space. Needed: 3 GB (download: 1 GB, generated: 2 GB"), "no room is left on the"),
        (huggingface_hub.errors.OfflineModeIsEnabled("offline mode is enabled"), "the Hub cannot be reached"),
    ],
    ids=["gated", "no room", "offline"],
)
def test_what_the_hubs_libraries_raise_is_one_line(hub, fails, error, line):
    hub.error = error
    assert f"alpaca::train[200:]: {line}" in fails(main, ["data", "fetch", "alpaca"])


def test_a_disk_that_fills_while_a_whole_set_is_loaded_leaves_nothing_half_written(hub, workplace, fails, monkeypatch):
    write(hub.folder, "zh-plus/tiny-imagenet")
    entry = "hub:zh-plus/tiny-imagenet@main::train"
    finish = ArrowWriter.finalize

    def full(self, *args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ArrowWriter, "finalize", full)
    assert "no room is left on the disk (or the quota): make room, then" in fails(main, ["data", "fetch", entry])
    left = [path for path in workplace.rglob("*") if path.suffix == ".arrow" or path.name.endswith(".incomplete")]
    assert not left
    monkeypatch.setattr(ArrowWriter, "finalize", finish)
    main(["data", "fetch", entry])
    assert list(workplace.rglob("*train.arrow"))


@pytest.mark.parametrize("kind", ["Speech", "Pictures", "Talk"])
def test_a_network_that_fails_in_the_middle_of_an_epoch_is_one_line(hub, kind, monkeypatch):
    kind = MEDIA[kind]
    write(hub.folder, kind.name, config=kind.config)
    data = kind.make(kind.name, streaming=True, num_workers=0)
    opened = HubSplit._open

    def breaking(self, *, streaming):
        def rows(batch, numbers):
            if numbers[-1] >= 8:
                raise httpx.ReadError("connection reset")
            return batch

        table = HubSplit.undecoded(self, opened(self, streaming=streaming))
        return table.map(rows, batched=True, batch_size=2, with_indices=True)

    monkeypatch.setattr(HubSplit, "_open", breaking)
    with pytest.raises(
        UserError, match=r"the Hub cannot be reached: check the network.*run the same command"
    ) as failed:
        epochs(data, streaming=True)
    assert str(failed.value).startswith(f"hub:{kind.name}:")
