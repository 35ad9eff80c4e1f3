"""Files that several processes write at the same time."""

import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import CONTEXT

from omni import files
from omni.data.speech.features import MARGIN, FeatureFile, mel_of
from omni.data.talker.code_file import CodesFile
from omni.data.talker.encoding import AlignmentFault, EncodedSpeech
from omni.errors import UserError
from omni.files import atomic_write, fill_once, locked
from omni.media.audio import LogMel

ROWS = 200


def test_a_file_is_replaced_completely_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "file"
    with atomic_write(path) as file:
        file.write(b"first")
    with pytest.raises(TypeError), atomic_write(path) as file:
        file.writelines([b"half of the sec", "ond"])
    assert path.read_bytes() == b"first"
    assert [*path.parent.iterdir()] == [path]


def test_a_full_disk_names_the_file_and_keeps_what_stood_there(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("the user's")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # files cannot grow further
    try:
        with pytest.raises(OSError, match=r"file\.txt"):
            files.write_text(path, "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "the user's"
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_full_disk_behind_the_output_ends_in_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "omni", "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "omni: the output: No space left on device\n"


def test_a_file_of_the_users_is_replaced_only_if_allowed(tmp_path):
    path = tmp_path / "file.txt"
    files.check_free([path], overwrite=False)
    path.write_text("the user's")
    files.check_free([path], overwrite=True)
    files.check_free([path], overwrite=False, is_ours=lambda each: each == path)
    with pytest.raises(UserError, match=r"file\.txt exists, and may not be omni's.*--overwrite"):
        files.check_free([path], overwrite=False)


def test_waiting_for_a_lock_is_reported_once(tmp_path, capsys):
    path, order = tmp_path / "features.lock", []

    def hold() -> None:
        with locked(path) as held:
            assert held
            order.append("first")
            started.set()
            waiting.wait(10)
            order.append("released")

    started, waiting = threading.Event(), threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    assert started.wait(10)
    threading.Timer(0.2, waiting.set).start()
    with locked(path) as held:
        assert held
        order.append("second")
    thread.join()
    assert order == ["first", "released", "second"]
    assert capsys.readouterr().out == f"waiting for {tmp_path / 'features'}: another process is filling it\n"


def audio(row: int) -> torch.Tensor:
    return torch.randn(400 + 160 * (row * 7 % 13), generator=torch.Generator().manual_seed(row))


def encoded(rows: list[int]) -> list[EncodedSpeech]:
    found = []
    for row in rows:
        frames = 3 + row * 7 % 13
        codes = np.full((frames, 2), row, np.int16)
        found.append(EncodedSpeech(codes, np.full(frames, row, np.int16), row, row, AlignmentFault.NONE))
    return found


def fill(folder: Path, start: Any) -> None:
    """Fills both kinds of cache at the same time as another process."""
    torch.set_num_threads(1)
    start.wait(60)
    FeatureFile(folder / "features", 16, ROWS).write(audio, label="train")
    CodesFile(folder / "codes", np.arange(ROWS) % 7 + 1.0, 2).write(encoded, label="train")


def check(folder: Path) -> None:
    features, log_mel = FeatureFile(folder / "features", 16, ROWS), LogMel(16)
    codes = CodesFile(folder / "codes", np.arange(ROWS) % 7 + 1.0, 2)
    assert features.complete
    assert codes.complete
    for row in range(ROWS):
        torch.testing.assert_close(features.read(row), mel_of(log_mel, audio(row), MARGIN, MARGIN))
        assert np.array_equal(codes.read(row)[0], encoded([row])[0].codes)


def test_two_processes_that_fill_the_same_caches_at_once_leave_every_row_in_its_place(tmp_path):
    start = CONTEXT.Barrier(2)
    processes = [CONTEXT.Process(target=fill, args=(tmp_path, start)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    check(tmp_path)


def test_threads_that_start_from_an_interrupted_cache_leave_every_row_in_its_place(tmp_path):
    """The second thread starts while the first one writes, whatever the timing."""
    begun = threading.Event()

    def slow(row: int) -> torch.Tensor:
        if row == 50:
            begun.set()
            threading.Event().wait(0.05)
        return audio(row)

    def one() -> None:
        FeatureFile(tmp_path / "features", 16, ROWS).write(slow, label="train")
        CodesFile(tmp_path / "codes", np.arange(ROWS) % 7 + 1.0, 2).write(encoded, label="train")

    thread = threading.Thread(target=one)
    thread.start()
    assert begun.wait(30)
    FeatureFile(tmp_path / "features", 16, ROWS).write(audio, label="train")
    CodesFile(tmp_path / "codes", np.arange(ROWS) % 7 + 1.0, 2).write(encoded, label="train")
    thread.join()
    check(tmp_path)


def test_without_locks_each_process_fills_private_files(tmp_path, monkeypatch):
    """Two processes that do not see each other's lock: a file system without locks, or Windows."""
    monkeypatch.setattr(files, "fcntl", None)
    test_threads_that_start_from_an_interrupted_cache_leave_every_row_in_its_place(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".part"]


def test_a_lock_that_is_local_to_a_node_does_no_harm(tmp_path, monkeypatch):
    """On such a network mount both processes write into the same files."""
    monkeypatch.setattr(files, "_acquire", lambda *args: True)
    test_threads_that_start_from_an_interrupted_cache_leave_every_row_in_its_place(tmp_path)


@pytest.mark.parametrize("cut", ["mels", "frames", "codes", "aligned"])
def test_a_truncated_cache_is_incomplete_and_is_completed(tmp_path, cut):
    features = FeatureFile(tmp_path / "file", 16, ROWS)
    codes = CodesFile(tmp_path / "file", np.arange(ROWS) % 7 + 1.0, 2)
    features.write(audio, label="train")
    codes.write(encoded, label="train")
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with (tmp_path / f"file.{cut}").open("r+b") as file:
        file.truncate(len(whole[f"file.{cut}"]) // 2 + 3)
    assert features.complete + codes.complete == 1
    features.write(audio, label="train")
    codes.write(encoded, label="train")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole


def test_rows_of_two_processes_of_an_older_version_are_computed_again(tmp_path):
    features = FeatureFile(tmp_path / "features", 16, ROWS)
    features.write(audio, label="train")
    frames = np.fromfile(features.records_file, dtype=np.int64)
    np.repeat(frames, 2).tofile(features.records_file)
    features.data.write_bytes(features.data.read_bytes() * 2)
    assert not features.complete
    features.write(audio, label="train")
    CodesFile(tmp_path / "codes", np.arange(ROWS) % 7 + 1.0, 2).write(encoded, label="train")
    check(tmp_path)


def test_an_unwritable_folder_is_reported_in_one_line(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"cache cannot be written \(.*\): make room"):
        fill_once([tmp_path / "cache" / "a"], complete=lambda: False, fill=lambda _: None)
