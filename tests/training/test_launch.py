"""Launching runs elsewhere: scripts and files for other programs, and resuming interrupted runs."""

import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import torch
import yaml

from omni.checkpoints.checkpoint import Checkpoint
from omni.cli import main

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "configs/launch"
RUN = Path("lightning_logs/thinker")
TASK = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text(encoding="utf-8"))
DOCKER = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def script(name: str) -> str:
    """A script in the folder, or a section of SkyPilot's task file as a script."""
    return TASK[name] if name in TASK else (LAUNCH / name).read_text(encoding="utf-8")


def commands(text: str) -> list[list[str]]:
    """The commands of a script, split into words like the shell does, with variables unexpanded."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip() and not line.startswith("#")]


def bash(text: str, *arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "script").write_text(text, encoding="utf-8")
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(folder / "script"), *arguments],
        env={"PATH": path, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def stand_in(folder: Path, name: str, code: int = 0) -> None:
    """A program that records its arguments and exits with the given code."""
    (folder / "bin").mkdir(exist_ok=True)
    program = folder / "bin" / name
    program.write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/called\nexit {code}\n', encoding="utf-8")
    program.chmod(0o755)


class TestScripts:
    @pytest.mark.parametrize("name", ["torchrun.sh", "slurm.sh", "sweep_array.sh", "setup", "run"])
    def test_scripts_are_valid_bash(self, name):
        done = subprocess.run(["bash", "-n"], input=script(name), capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.parametrize("name", ["torchrun.sh", "slurm.sh", "sweep_array.sh"])
    def test_scripts_stop_at_an_error_and_are_executable(self, name):
        assert script(name).startswith("#!/usr/bin/env bash\n")
        assert "\nset -euo pipefail\n" in script(name)
        assert os.access(LAUNCH / name, os.X_OK)

    @pytest.mark.parametrize("name", ["torchrun.sh", "slurm.sh", "run"])
    def test_arguments_given_to_fit_are_accepted_by_fit(self, name, capfd):
        (words,) = [words for words in commands(script(name)) if "--ckpt_path" in words or "--config" in words]
        options = [word for word in words[words.index("fit") + 1 if "fit" in words else 1 :] if word != "$@"]
        options = options[: options.index("||")] if "||" in options else options
        given = {"$CONFIG": str(ROOT / TASK["envs"]["CONFIG"])}
        options = [given.get(word, "1") if word.startswith("$") else word for word in options]
        config = [] if "--config" in options else ["--config", str(ROOT / "configs/thinker.yaml")]
        with pytest.raises(SystemExit) as stop:
            main(["fit", *config, *options, "--print_config"])
        assert stop.value.code == 0
        merged = yaml.safe_load(capfd.readouterr().out)
        if name == "run":
            assert merged["trainer"]["logger"]["init_args"]["save_dir"] == "/omni/runs"
        else:
            assert merged["ckpt_path"] == "auto"
            assert merged["trainer"]["strategy"] == "ddp"

    def test_torchrun_starts_a_process_for_each_gpu_of_each_machine(self, tmp_path):
        stand_in(tmp_path, "torchrun")
        options = {"GPUS": "4", "NODES": "2", "NODE": "1", "MASTER": "first"}
        done = bash(script("torchrun.sh"), "--config", "a b.yaml", folder=tmp_path, **options)
        assert done.returncode == 0, done.stderr
        called = (tmp_path / "called").read_text()
        for words in ("--nnodes 2", "--node-rank 1", "--nproc-per-node 4", "--master-addr first", "--ckpt_path auto",
                      "--trainer.num_nodes 2", "--trainer.devices 4", "--config a b.yaml"):  # fmt: skip
            assert words in called

    def test_torchrun_counts_the_gpus_itself(self, tmp_path):
        stand_in(tmp_path, "torchrun")
        (tmp_path / "bin/nvidia-smi").write_text("#!/bin/sh\necho GPU 0\necho GPU 1\n")
        (tmp_path / "bin/nvidia-smi").chmod(0o755)
        assert bash(script("torchrun.sh"), folder=tmp_path).returncode == 0
        assert "--nproc-per-node 2" in (tmp_path / "called").read_text()

    @pytest.mark.parametrize(("code", "ends", "again"), [(0, 0, False), (143, 0, True), (2, 2, False)])
    def test_workers_of_a_sweep_are_requeued_if_they_were_stopped(self, code, ends, again, tmp_path):
        stand_in(tmp_path, "srun", code)
        stand_in(tmp_path, "scontrol")
        job = {"SLURM_JOB_ID": "77"}
        done = bash(script("sweep_array.sh"), "sweep.yaml", "--storage", "grpc://a:1", folder=tmp_path, **job)
        assert done.returncode == ends, done.stderr
        called = (tmp_path / "called").read_text()
        assert "srun omni sweep sweep.yaml --storage grpc://a:1 --jobs 1" in called
        assert ("scontrol requeue 77" in called) == again

    @pytest.mark.parametrize(
        ("code", "ends", "again"), [(0, 0, False), (143, 0, True), (2, 2, False), (137, 137, False)]
    )
    def test_slurm_requeues_stopped_jobs_only(self, code, ends, again, tmp_path):
        stand_in(tmp_path, "srun", code)
        stand_in(tmp_path, "scontrol")
        job = {"SLURM_JOB_ID": "77", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "4"}
        done = bash(script("slurm.sh"), "--config", "a.yaml", folder=tmp_path, **job)
        assert done.returncode == ends, done.stderr
        called = (tmp_path / "called").read_text()
        assert "--trainer.num_nodes 2 --trainer.devices 4 --ckpt_path auto --config a.yaml" in called
        assert ("scontrol requeue 77" in called) == again

    def test_slurm_requests_one_task_per_gpu_and_the_signal_that_a_run_handles(self):
        asked = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", script("slurm.sh"), re.MULTILINE))
        assert len(asked) == script("slurm.sh").count("#SBATCH")
        assert asked["ntasks-per-node"] == asked["gpus-per-node"]
        assert asked["signal"].startswith("TERM@")
        assert asked["open-mode"] == "append"  # keeps the output from before a requeue

    def test_the_skypilot_task_is_valid(self):
        known = {"name", "resources", "num_nodes", "workdir", "file_mounts", "envs", "setup", "run"}
        assert TASK.keys() <= known
        assert TASK["resources"]["use_spot"] is True
        (runs,) = [where for where, mount in TASK["file_mounts"].items() if mount["mode"] == "MOUNT_CACHED"]
        assert f"--trainer.logger.init_args.save_dir {runs}" in TASK["run"]
        assert (ROOT / TASK["envs"]["CONFIG"]).is_file()
        for name in re.findall(r"(configs/[\w./]+)", TASK["run"]):
            assert (ROOT / name).is_file()
        targets = re.findall(r"make (\w+)", TASK["setup"])
        assert targets
        assert all(f"\n{target}:" in (ROOT / "Makefile").read_text() for target in targets)

    def test_no_file_contains_a_secret(self):
        for path in (*LAUNCH.iterdir(), ROOT / "Dockerfile"):
            assert not re.search(r"hf_\w{8}|AKIA\w{8}|password|TOKEN=", path.read_text(encoding="utf-8"))


class TestImage:
    def test_instructions_are_valid(self):
        known = {"FROM", "RUN", "WORKDIR", "ENV", "COPY", "ENTRYPOINT", "CMD"}
        found = [words[0] for words in commands(DOCKER)]
        assert found[0] == "FROM"
        assert set(found) <= known
        for line in re.sub(r"\\\n", " ", DOCKER).splitlines():
            if line.startswith("RUN "):
                done = subprocess.run(["bash", "-n"], input=line[4:], capture_output=True, text=True, check=False)
                assert (done.returncode, done.stderr) == (0, "")

    def test_it_runs_the_command_of_the_project(self):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        entry, default = (
            json.loads(re.search(rf"^{name} (.+)$", DOCKER, re.MULTILINE)[1]) for name in ("ENTRYPOINT", "CMD")
        )
        assert entry == [*project["scripts"]]
        main(default)
        steps = [
            step.split() for words in commands(DOCKER) if words[0] == "RUN" for step in " ".join(words[1:]).split("&&")
        ]
        assert {step[0] for step in steps} <= {"apt-get", "rm", "mkdir", "echo", "pip"}  # of python:slim
        named = re.findall(r"configs/[\w./]+\.yaml", DOCKER)
        assert named
        assert all((ROOT / name).is_file() for name in named)

    def test_copied_files_exist_and_are_not_ignored(self):
        rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
        copied = [name for words in commands(DOCKER) if words[0] == "COPY" for name in words[1:-1]]
        assert copied
        for name in copied:
            assert (ROOT / name).exists()
            last = [rule for rule in rules if fnmatch.fnmatch(name, rule.removeprefix("!"))][-1]
            assert last == f"!{name}"
        assert {"omni", "configs"} <= set(copied)  # a run needs configs/base.yaml

    def test_python_version_and_extras_match_the_project(self):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        version = re.search(r"^FROM python:3\.(\d+)", DOCKER, re.MULTILINE)
        least = re.search(r">=3\.(\d+)", project["requires-python"])
        assert version is not None
        assert least is not None
        assert int(version[1]) >= int(least[1])
        extras = re.search(r"--editable '\.\[([\w,]+)\]'", DOCKER)
        assert extras is not None
        assert set(extras[1].split(",")) <= project["optional-dependencies"].keys()


class TestResuming:
    """`--ckpt_path auto`: starts or resumes a run, and never starts one over checkpoints."""

    def test_starts_and_later_resumes(self, fit, caplog):
        fit("fit", "--ckpt_path=auto", trainer__max_steps=3)
        assert f"ckpt_path auto: {RUN} holds no checkpoint: starting a new run" in caplog.text
        cli = fit("fit", "--ckpt_path=auto", trainer__max_steps=6)
        assert f"ckpt_path auto: resuming from {RUN / 'last.ckpt'}" in caplog.text
        assert cli.trainer.global_step == 6
        assert not (RUN / "earlier").exists()

    def test_stopped_and_resumed_equals_never_stopped(self, fit):
        import json

        options = {"trainer__max_steps": 12, "trainer__val_check_interval": 4}
        fit("fit", "--ckpt_path=auto", **options)
        whole = Checkpoint(RUN / "last.ckpt").weights
        RUN.rename("whole")
        stop = json.dumps({"class_path": "toy_runs.SignalAt", "init_args": {"step": 5, "signum": 15}})
        with pytest.raises(SystemExit) as stopped:
            fit("fit", "--ckpt_path=auto", f"--trainer.callbacks+={stop}", **options)
        assert stopped.value.code == 128 + signal.SIGTERM
        fit("fit", "--ckpt_path=auto", **options)
        found = Checkpoint(RUN / "last.ckpt").weights
        assert all(torch.equal(weight, found[name]) for name, weight in whole.items())

    def test_a_finished_run_is_left_unchanged(self, fit):
        fit("fit", "--ckpt_path=auto")
        before = Checkpoint(RUN / "last.ckpt").weights
        fit("fit", "--ckpt_path=auto")
        found = Checkpoint(RUN / "last.ckpt").weights
        assert all(torch.equal(weight, found[name]) for name, weight in before.items())
        assert not (RUN / "earlier").exists()

    def test_a_damaged_or_foreign_last_checkpoint_is_refused_and_kept(self, fit, fails):
        fit()
        whole = (RUN / "last.ckpt").read_bytes()
        (RUN / "last.ckpt").write_bytes(whole[:-2000])
        assert "last.ckpt cannot be read" in fails(fit, "fit", "--ckpt_path=auto")
        (RUN / "last.ckpt").write_bytes(whole)
        message = fails(fit, "fit", "--ckpt_path=auto", model__init_args__thinker__init_args__num_layers=1)
        assert "does not fit this configuration" in message
        assert (RUN / "last.ckpt").read_bytes() == whole

    def test_a_best_checkpoint_without_a_last_one_is_refused(self, fit, fails):
        fit()
        (RUN / "last.ckpt").unlink()
        message = fails(fit, "fit", "--ckpt_path=auto")
        assert "holds best.ckpt but no last.ckpt: give one of these" in message
        assert (RUN / "best.ckpt").is_file()

    def test_ckpt_path_last_never_starts_a_run(self, fit, fails):
        assert "last.ckpt does not exist" in fails(fit, "fit", "--ckpt_path=last")
        assert not RUN.exists() or not list(RUN.glob("*.ckpt"))

    def test_only_fit_accepts_auto(self, fit, fails):
        assert "auto is only for fit" in fails(fit, "validate", "--ckpt_path=auto")


@pytest.mark.slow
class TestTwoProcesses:
    """Two processes on the CPU, started by the script for torchrun and by `omni fit` itself."""

    def start(self, *command: str) -> subprocess.Popen[str]:
        from toy_commands import CONFIGS, TOY

        toy = [f"--{name}={value}" for name, value in TOY.items()]
        first, *rest = command
        environment = {
            **os.environ,
            "GPUS": "2",
            "PORT": str(29_600 + os.getpid() % 300),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{Path(__file__).parent}",
            "OMP_NUM_THREADS": "1",
        }
        words = [*first.split(), "--config", str(CONFIGS / "thinker.yaml"), *toy, *rest]
        return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def test_processes_stop_together_on_a_signal_and_resume(self, workplace):
        if shutil.which("torchrun", path=str(Path(sys.executable).parent)) is None:
            pytest.skip("torchrun is not beside this Python")
        steps = ["--trainer.max_steps=3000", "--trainer.val_check_interval=3000", "--trainer.log_every_n_steps=5"]
        run = self.start(f"bash {LAUNCH / 'torchrun.sh'}", *steps)
        assert run.stdout is not None
        while not list(RUN.glob("last.ckpt")):  # base.yaml: every 200 steps
            if run.poll() is not None:
                pytest.fail(run.stdout.read())
            time.sleep(0.1)
        run.send_signal(signal.SIGTERM)
        told = run.communicate(timeout=300)[0]
        assert told.count("omni: stopped at step") == 1, told
        stopped = Checkpoint(RUN / "last.ckpt").lineage["step"]
        assert stopped % 5 == 0
        steps = [f"--trainer.max_steps={stopped + 10}", "--trainer.val_check_interval=5", "--ckpt_path=auto"]
        run = self.start("omni fit --trainer.devices=2 --trainer.strategy=ddp", *steps)
        told = run.communicate(timeout=300)[0]
        assert run.returncode == 0, told
        assert "resuming from" in told
        assert Checkpoint(RUN / "last.ckpt").lineage["step"] == stopped + 10

    def test_killing_one_process_ends_the_other(self, workplace):
        kill = '{"class_path": "test_failing_ranks.FailAt", "init_args": {"step": 3, "how": "kill"}}'
        run = self.start("omni fit --trainer.devices=2 --trainer.strategy=ddp", f"--trainer.callbacks+={kill}")
        told = run.communicate(timeout=300)[0]
        assert run.returncode == 128 + signal.SIGKILL, told
        assert told.count("omni: rank 1 was killed by signal 9") == 1, told
        assert "Traceback" not in told
