"""Studies in PostgreSQL and behind Optuna's gRPC proxy: two commands work on one."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pytest
from optuna.trial import TrialState
from toy_sweep import write_sweep

import omni
from omni.sweeps.definition import read_sweep
from omni.sweeps.study import SweepStudy

PROGRAMS = [*Path("/usr/lib/postgresql").glob("*/bin"), Path("/usr/local/bin")]


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture
def postgres():
    """The URL of a server of our own."""
    found = next((folder for folder in PROGRAMS if (folder / "initdb").exists()), None)
    if found is None:
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    folder = Path(tempfile.mkdtemp(prefix="omni-postgres-"))  # the user postgres may not enter the folders of pytest
    as_user: list[str] = []
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    data, port = folder / "data", free_port()

    def run(*command):
        subprocess.run([*as_user, *map(str, command)], check=True, capture_output=True, cwd=folder)

    run(found / "initdb", "-D", data, "-U", "omni", "--auth=trust")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    run(found / "pg_ctl", "-D", data, "-o", options, "-l", folder / "log", "-w", "start")
    try:
        yield f"postgresql://omni@127.0.0.1:{port}/postgres"
    finally:
        run(found / "pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


def check_two_commands(storage):
    sweep = read_sweep(write_sweep())
    with closing(SweepStudy(sweep, storage)) as first, closing(SweepStudy(sweep, storage)) as second:
        check_shared(first, second)
    assert list(omni.sweeps.load("toy", storage=storage)["state"]) == ["running", "complete"]
    assert not Path("lightning_logs/sweeps/toy/journal.log").exists()


def check_shared(first, second):
    trials = [first.propose(), second.propose()]
    assert [trial.index for trial in trials] == [0, 1]
    first.report(trials[1], 3, 0.5)
    first.finish(trials[1], TrialState.COMPLETE, 0.25, steps=6)
    done = second.trials()[1]
    assert (done.value, done.curve, done.facts["steps"]) == (0.25, {3: 0.5}, 6)
    assert done.values == trials[1].values


def test_two_commands_share_a_study_in_postgresql(workplace, postgres):
    check_two_commands(postgres)


def test_two_commands_share_a_study_behind_a_proxy(workplace):
    pytest.importorskip("grpc", reason="grpcio is not installed")
    port = free_port()
    program = (
        "import optuna, sys\n"
        "storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend('proxy.log'))\n"
        f"optuna.storages.run_grpc_proxy_server(storage, host='127.0.0.1', port={port})\n"
    )
    server = subprocess.Popen([sys.executable, "-W", "ignore", "-c", program], stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        check_two_commands(f"grpc://127.0.0.1:{port}")
    finally:
        server.kill()
        server.wait()
