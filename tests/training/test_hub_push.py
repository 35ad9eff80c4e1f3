"""The callback that pushes checkpoints to the Hub while a run trains."""

import threading
from pathlib import Path

import pytest
from toy_runs import RUN, callback, step_of, weights

from omni.checkpoints.checkpoint import Checkpoint
from omni.training.callbacks import hub_push

PUSH = "omni.training.callbacks.HubPush"


@pytest.fixture
def pushed(monkeypatch) -> list[int]:
    """The step of the checkpoint of each push, which is made as always."""
    steps: list[int] = []
    publish = hub_push.publish

    def spied(path, *args, **options):
        steps.append(step_of(Path(path)))
        return publish(path, *args, **options)

    monkeypatch.setattr(hub_push, "publish", spied)
    return steps


@pytest.fixture
def in_turn(monkeypatch):
    """Every push ends before the next batch."""
    start = threading.Thread.start

    def waits(self):
        start(self)
        if getattr(self._target, "__name__", "") == "_push":
            self.join()

    monkeypatch.setattr(threading.Thread, "start", waits)


@pytest.mark.usefixtures("in_turn")
class TestSteps:
    def test_every_n_steps_and_at_the_end(self, fit, pushed, caplog):
        push = callback(PUSH, repository="./published", every_n_train_steps=2, checkpoint="last")
        fit("fit", push, callback("omni.training.callbacks.StageCheckpoint", filename="last", every_n_train_steps=1),
            trainer__max_steps=7)  # fmt: skip
        assert pushed == [2, 4, 6, 7]
        assert Checkpoint("published").lineage["step"] == 7
        assert weights(Path("published")).keys() == weights(RUN / "last.ckpt").keys()
        assert caplog.text.count("last.ckpt is in published (") == 4

    def test_once_a_step_where_a_step_takes_several_batches(self, fit, pushed):
        push = callback(PUSH, repository="./published", every_n_train_steps=2, checkpoint="last")
        fit("fit", push, callback("omni.training.callbacks.StageCheckpoint", filename="last", every_n_train_steps=1),
            trainer__max_steps=5, trainer__accumulate_grad_batches=3)  # fmt: skip
        assert pushed == [2, 4, 5]

    def test_the_best_is_pushed_once_there_is_one(self, fit, pushed):
        fit("fit", callback(PUSH, repository="./published", every_n_train_steps=1))
        assert len(pushed) == 4  # after steps 3, 4, 5 and at the end
        assert pushed[0] == 3
        assert Checkpoint("published").lineage["step"] == step_of(RUN / "best.ckpt")

    def test_a_failed_push_is_printed_and_the_run_goes_on(self, fit, caplog):
        Path("mine").mkdir()
        Path("mine/thesis.txt").write_text("years of work")
        fit("fit", callback(PUSH, repository="./mine", every_n_train_steps=4))
        assert step_of(RUN / "last.ckpt") == 6
        assert caplog.text.count("HubPush: best.ckpt was not pushed: mine holds other files") == 2
        assert [path.name for path in Path("mine").iterdir()] == ["thesis.txt"]


def test_training_does_not_wait_for_a_push(fit, monkeypatch):
    """The push ends only after a later step has begun, which would never happen if training waited for it."""
    later = threading.Event()
    publish, start = hub_push.publish, hub_push.HubPush.on_train_batch_start
    waited = []

    def slow(*args, **options):
        waited.append(later.wait(60))
        return publish(*args, **options)

    def spied(self, trainer, *args):
        if trainer.global_step == 5:
            later.set()
        start(self, trainer, *args)

    monkeypatch.setattr(hub_push, "publish", slow)
    monkeypatch.setattr(hub_push.HubPush, "on_train_batch_start", spied)
    fit("fit", callback(PUSH, repository="./published", every_n_train_steps=3))
    assert waited == [True, True]  # the push after step 3, and the last one
    assert Checkpoint("published").lineage["step"] == step_of(RUN / "best.ckpt")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [({"repository": "stars"}, "give OWNER/NAME on the Hub"), ({"every_n_train_steps": 0}, "give 1 or more")],
)
def test_mistakes_end_in_one_line(fit, fails, arguments, complaint):
    assert complaint in fails(fit, "fit", callback(PUSH, **{"repository": "./published", **arguments}))
