"""Batches of training: split over ranks and workers, and resumed at the next one."""

import json
import random
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback, LearningRateFinder

from omni.data.loading.streaming import StreamLoader
from omni.data.text.data import TextData
from omni.errors import UserError

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:.*does not have many workers"
    ),  # rows are memory-mapped, so workers would not help
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),  # Lightning 2.6 under PyTorch 2.14
]


class Recorder(L.LightningModule):
    """A stage that trains nothing and records its batches."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.lr = 0.1
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((batch.rows.tolist(), hash(batch.tokens.numpy().tobytes())))
        if len(self.seen) == getattr(self, "fails_at", None):
            raise RuntimeError("planted")
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)


class SaveEverywhere(L.Callback):
    """Saves a checkpoint in every hook in which Lightning's callbacks do."""

    def __init__(self, folder):
        self.folder = folder
        self.saved = []

    def save(self, trainer, module, *_):
        if not trainer.sanity_checking:
            path = self.folder / f"{len(self.saved)}.ckpt"
            trainer.save_checkpoint(path)
            self.saved.append((path, len(module.seen)))

    on_train_start = on_train_batch_end = on_validation_start = on_validation_end = on_train_epoch_end = (
        on_train_end
    ) = save


@pytest.fixture
def make(tmp_path):
    rng = random.Random(0)
    rows = ({"text": "".join(rng.choices("abcdefgh é", k=rng.randint(1, 60)))} for _ in range(60))
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(**options):
        options = {"tokenizer": "bytes", "context": 32, "batch_size": 6, "val_fraction": 0.1} | options
        return TextData(**{"train": str(tmp_path / "t.jsonl"), "cache_dir": str(tmp_path / "cache")} | options)

    return make


@pytest.fixture
def fit(tmp_path):
    def fit(data, *, module=None, ckpt_path=None, **options):
        module = module or Recorder()
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        options = {"enable_checkpointing": False, "accelerator": "cpu", "default_root_dir": tmp_path} | quiet | options
        L.Trainer(**options).fit(module, data, ckpt_path=ckpt_path, weights_only=True)
        return module.seen

    return fit


TRAINERS = [
    {"max_epochs": 2, "val_check_interval": 3},
    {"max_epochs": 2, "accumulate_grad_batches": 2},
    {"max_epochs": 4, "limit_train_batches": 3, "accumulate_grad_batches": 2},
    {"max_epochs": -1, "max_steps": 17},
]
# not with a stream: at the end of a loader without length, Lightning groups accumulated batches differently on resuming
STEPPED = {"max_epochs": -1, "max_steps": 7, "accumulate_grad_batches": 2, "check_val_every_n_epoch": None}
CASES = [(options, streaming) for options in TRAINERS for streaming in (False, True)]


@pytest.mark.parametrize(("options", "streaming"), [*CASES, (STEPPED | {"val_check_interval": 4}, False)], ids=str)
def test_resuming_gives_the_remaining_batches(make, fit, tmp_path, options, streaming):
    kind = {"streaming": streaming, "shuffle_buffer": 9}
    saver = SaveEverywhere(tmp_path)
    whole = fit(make(**kind), callbacks=[saver], **options)
    assert len({str(batch) for batch in whole}) == len(whole)
    assert len(saver.saved) > len(whole)
    for path, seen in saver.saved[:: 4 if streaming else 3] + saver.saved[-3:]:
        assert fit(make(**kind), ckpt_path=path, **options) == whole[seen:]


@pytest.mark.parametrize("streaming", [False, True], ids=["rows", "stream"])
def test_resuming_with_workers(make, fit, tmp_path, streaming):
    kind = {"streaming": streaming, "shuffle_buffer": 9, "num_workers": 2}
    saver = SaveEverywhere(tmp_path)
    whole = fit(make(**kind), callbacks=[saver], max_epochs=2)
    for path, seen in saver.saved[5::9]:
        assert fit(make(**kind), ckpt_path=path, max_epochs=2) == whole[seen:]


@pytest.mark.parametrize("streaming", [False, True], ids=["rows", "stream"])
def test_a_finished_run_with_more_steps_resumes_in_the_same_epoch(make, fit, tmp_path, streaming):
    kind = {"streaming": streaming, "shuffle_buffer": 9}
    whole = fit(make(**kind), max_steps=16, max_epochs=-1)
    saver = SaveEverywhere(tmp_path)
    fit(make(**kind), max_steps=5, max_epochs=-1, callbacks=[saver])
    for path, seen in saver.saved[-3:]:  # end of the batch, of the epoch, of training
        assert seen == 5
        assert fit(make(**kind), ckpt_path=path, max_steps=16, max_epochs=-1) == whole[5:]


def test_an_interrupted_batch_is_repeated(make, fit, tmp_path):
    whole = fit(make(), max_steps=8, max_epochs=-1)
    module, path = Recorder(), tmp_path / "exception.ckpt"
    module.fails_at = 4
    saver = LambdaCallback()
    saver.on_exception = lambda trainer, *_: trainer.save_checkpoint(path)
    with pytest.raises(RuntimeError, match="planted"):
        fit(make(), module=module, max_steps=8, max_epochs=-1, callbacks=[saver])
    assert fit(make(), ckpt_path=path, max_steps=8, max_epochs=-1) == whole[3:]


@pytest.mark.parametrize("streaming", [False, True], ids=["rows", "stream"])
def test_a_learning_rate_finder_leaves_no_trace(make, fit, streaming):
    kind = {"streaming": streaming, "shuffle_buffer": 9}
    whole = fit(make(**kind), max_steps=8, max_epochs=-1)
    finder = LearningRateFinder(num_training_steps=5, min_lr=1e-6, max_lr=1e-5)
    seen = fit(make(**kind), max_steps=8, max_epochs=-1, callbacks=[finder])
    assert len(seen) > 8
    assert seen[-8:] == whole


def test_overfit_batches_repeats_the_same_batches(make, fit):
    seen = fit(make(), overfit_batches=2, max_epochs=3)
    assert seen == seen[:2] * 3
    with pytest.raises(UserError, match=r"overfit_batches needs .* data\.streaming"):
        fit(make(streaming=True), overfit_batches=2, max_epochs=3)


def test_limited_epochs_go_through_all_data(make, fit):
    whole = fit(make(), max_epochs=1)
    assert fit(make(), max_epochs=4, limit_train_batches=3)[: len(whole)] == whole[:12]


def test_limited_epochs_go_through_a_stream_without_rereading(make, fit, caplog):
    stream = {"streaming": True, "shuffle_buffer": 9}
    assert fit(make(**stream), max_epochs=3, limit_train_batches=3) == fit(make(**stream), max_epochs=1)[:9]
    assert "again" not in caplog.text


def test_another_batch_size_resumes_at_the_same_fraction_of_the_data(make, fit, tmp_path):
    saver = SaveEverywhere(tmp_path)
    whole = fit(make(), callbacks=[saver], max_steps=6, max_epochs=-1)
    (path, _), per_epoch = saver.saved[-1], len(make_ready(make()).train_batches())
    with pytest.warns(UserWarning, match=r"batches or its seed have changed .* resuming at batch \d+ of epoch 0"):
        smaller = fit(make(batch_size=3), ckpt_path=path, max_steps=8, max_epochs=-1)
    rows = [row for batch, _ in whole for row in batch]
    now = len(make_ready(make(batch_size=3)).train_batches())
    assert smaller[0][0] == fit(make(batch_size=3), max_epochs=1)[6 * now // per_epoch][0]
    assert len(set(rows) & {row for batch, _ in smaller for row in batch}) <= 3


def test_another_seed_gives_a_warning(make, fit, tmp_path):
    saver = SaveEverywhere(tmp_path)
    fit(make(), callbacks=[saver], max_steps=3, max_epochs=-1)
    with pytest.warns(UserWarning, match="its seed have changed"):
        seen = fit(make(seed=1), ckpt_path=saver.saved[-1][0], max_steps=6, max_epochs=-1)
    assert seen == fit(make(seed=1), max_steps=6, max_epochs=-1)[3:]


@pytest.mark.parametrize("streaming", [False, True], ids=["rows", "stream"])
def test_evaluating_a_checkpoint_on_other_data_gives_no_warning(make, fit, tmp_path, streaming):
    saver = SaveEverywhere(tmp_path)
    fit(make(streaming=streaming), callbacks=[saver], max_steps=3, max_epochs=-1)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    data = make(streaming=streaming, val_fraction=0.3, batch_size=2)
    trainer.validate(Recorder(), data, ckpt_path=saver.saved[-1][0], weights_only=True, verbose=False)


def test_a_changed_stream_starts_a_new_pass(make, fit, tmp_path):
    saver = SaveEverywhere(tmp_path)
    fit(make(streaming=True), callbacks=[saver], max_steps=3, max_epochs=-1)
    with pytest.warns(UserWarning, match="starting a new pass"):
        seen = fit(make(streaming=True, batch_size=3), ckpt_path=saver.saved[-1][0], max_steps=6, max_epochs=-1)
    data = make_ready(make(streaming=True, batch_size=3))
    loader = data.train_dataloader()
    list(loader)  # the first pass
    assert seen[0][0] == next(iter(loader)).rows.tolist()


def make_ready(data):
    data.setup()
    return data


def test_fewer_rows_than_a_batch_make_one_smaller_batch(make):
    data = make_ready(make(batch_size=10_000))
    (batch,) = data.train_dataloader()
    assert len(batch.rows) == data.report["train"].rows


class Ranked:
    """The part of a trainer that data modules use, for one of two ranks."""

    def __init__(self, rank, *, injects=False):
        self.global_rank, self.world_size = rank, 2
        self.overfit_batches = 0.0
        self._accelerator_connector = SimpleNamespace(use_distributed_sampler=injects)
        self.fit_loop = SimpleNamespace(
            epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(total=SimpleNamespace(processed=0)))
        )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["rows", "stream", "hub stream"])
def test_ranks_and_workers_have_disjoint_data(make, tmp_path, kind, workers):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_bytes((tmp_path / "t.jsonl").read_bytes())
    entry = {"train": f"hub:{tmp_path / 'set'}"} if kind == "hub stream" else {}

    def scored(rank, workers):
        data = make_ready(make(streaming=kind != "rows", batch_size=1, num_workers=workers, **entry))
        data.trainer = rank
        return [tuple(batch.targets[0].tolist()) for batch in data.train_dataloader()]

    alone, ranks = scored(None, 0), [scored(Ranked(rank), workers) for rank in range(2)]
    assert ranks[0] == scored(Ranked(0), workers)
    together = ranks[0] + ranks[1]
    assert len(set(together)) == len(together)
    dropped = 32 if kind == "rows" else 0  # one row is left, so that both ranks have equal numbers
    assert 0 <= count(alone) - count(together) <= dropped


def count(rows):
    return sum(target >= 0 for row in rows for target in row)


def test_files_of_one_document_are_split_over_ranks(make, tmp_path):
    for i in range(8):
        (tmp_path / f"{i}.txt").write_text(f"document {i}")
    seen = []
    for rank in range(2):
        data = make_ready(
            make(train=str(tmp_path / "*.txt"), val=str(tmp_path / "t.jsonl"), streaming=True, batch_size=1)
        )
        data.trainer = Ranked(rank)
        seen.append(count(batch.targets[0].tolist() for batch in data.train_dataloader()))
    assert min(seen) >= sum(seen) // 2 - len("document 0") - 1


def test_lightning_does_not_split_a_second_time(make):
    data = make_ready(make())
    data.trainer = Ranked(0, injects=True)
    with pytest.raises(UserError, match=r"trainer\.use_distributed_sampler is true: set it to false"):
        data.train_dataloader()


def test_all_ranks_end_a_stream_together(make, monkeypatch):
    data = make_ready(make(streaming=True, batch_size=2))
    data.trainer = Ranked(0)
    answers = iter([True, True, False])
    monkeypatch.setattr("omni.data.loading.split_data.all_agree", lambda more: more and next(answers))
    assert len(list(data.train_dataloader())) == 2
    assert data._starts == [0, 2]


def test_held_out_rows_of_a_stream_are_not_trained_on(make):
    stream, rows = make_ready(make(streaming=True, batch_size=1)), make_ready(make(batch_size=1))
    assert stream.report["val"] == rows.report["val"]
    assert stream.plan().tokenizer.fingerprint == rows.tokenizer.fingerprint
    trained = sum((batch.targets >= 0).sum().item() for batch in stream.train_dataloader())
    assert trained == sum((batch.targets >= 0).sum().item() for batch in rows.train_dataloader())
    assert isinstance(stream.train_dataloader(), StreamLoader)
