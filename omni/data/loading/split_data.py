"""The base of the data modules: splits that are found once by each process, loaders for all of them, streams."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, get_args

from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Sampler

from omni.data.loading.bad_rows import BadRowPolicy, BadRows, RowErrors
from omni.data.loading.hub import Columns
from omni.data.loading.resumable import ResumableData
from omni.data.loading.statistics import DataStatistics
from omni.data.loading.streaming import SourceStream, StreamLoader
from omni.distributed import all_agree
from omni.errors import UserError

Plan = TypeVar("Plan")


class SplitData(ResumableData, ABC, Generic[Plan]):
    """Abstract: a data module with the splits `train`, `val` and `test`, of which `train` may be a stream.

    Args:
        entries: Names of the sources of each split, as its configuration has them; None for a split that is not given.
        bad_rows: `error`: the first row that cannot be read ends the run; `skip`: such rows are left out, named and
            counted, those that are found in the middle of an epoch too.
        max_bad_rows: With `skip`: the run ends if more rows of a split than this cannot be read. Each device, and each
            worker of a stream, counts its own.
        streaming: Read `train` while training, for data too large to prepare. Resuming reads up to its place again.
        columns: By data set of the Hub (`OWNER/NAME`), its names of the columns that are read: `{OWNER/NAME: {text:
            normalized_text}}`. `captions` may be a list of columns.
        num_workers: Processes that load batches; 0: the training process does.
        seed: Of shuffling and augmentation.
        cache_dir: Folder of downloads and of whatever is computed once.

    Attributes:
        entries: The same, as lists.
        datasets: The data set of each split; after `setup`.
    """

    no_effect = frozenset({"bad_rows", "max_bad_rows"})

    only_of_streams: ClassVar[frozenset[str]] = frozenset({"num_workers", "shuffle_buffer"})
    """Constructor arguments that change the order of a stream and nothing else."""

    row_name: ClassVar[str] = "rows"
    """What error messages call the rows."""

    val_fraction: float = 0.1
    shuffle_buffer: int = 1

    def __init__(
        self,
        entries: Mapping[str, str | Sequence[str] | Mapping[str, float] | None],
        *,
        bad_rows: BadRows = "error",
        max_bad_rows: int = 1000,
        streaming: bool = False,
        columns: Columns | None = None,
        num_workers: int = 0,
        seed: int = 0,
        cache_dir: str = "data/cache",
    ):
        super().__init__(num_workers=num_workers, seed=seed)
        self.entries = {
            split: [given] if isinstance(given, str) else list(given)
            for split, given in entries.items()
            if given is not None
        }
        self.cache_dir = Path(cache_dir).expanduser()
        self.bad_rows: BadRows = bad_rows
        self.max_bad_rows = max_bad_rows
        self.streaming = streaming
        self.columns: Columns = columns or {}
        self.datasets: dict[str, Any] = {}
        self._plan: Plan | None = None
        self._row_errors: dict[str, RowErrors] = {}
        self._starts = [0]  # of the passes over the stream, in batches

    # ------------------------------------------------------------------ splits

    @abstractmethod
    def make_plan(self, *, may_write: bool) -> Plan:
        """Finds what each split reads.

        Args:
            may_write: Whether this process may write to `cache_dir`.
        """

    @abstractmethod
    def open_splits(self, plan: Plan) -> None:
        """Fills `datasets`."""

    def plan(self, *, may_write: bool = False) -> Plan:
        """What each split reads, found once by each process."""
        if self._plan is None:
            self._plan = self.make_plan(may_write=may_write)
        return self._plan

    def setup(self, stage: str | None = None) -> None:
        if self.datasets:
            return
        if self.trainer is None:
            self.prepare_data()
        self.open_splits(self.plan())

    @abstractmethod
    def statistics(self) -> DataStatistics:
        """Counts the training and validation data, prepared as for training, without reading media.

        Needs no trainer. Of a stage that sets up its data, `configure_data` must be called before.
        """

    def row_errors(self, split: str) -> RowErrors:
        """The errors of the rows of a split, the same object in each call."""
        return self._row_errors.setdefault(split, RowErrors(split, self._bad_row_policy))

    def stream_errors(self) -> RowErrors:
        """The errors of the rows of a stream, of which each is reported when it is found."""
        return RowErrors("train", self._bad_row_policy, at_once=True)

    @property
    def _bad_row_policy(self) -> BadRowPolicy:
        return BadRowPolicy(skip=self.bad_rows == "skip", limit=self.max_bad_rows)

    def dataset(self, split: str) -> Any:
        """The data set of a split.

        Raises:
            UserError: If the split is not given.
        """
        if split not in self.datasets:
            raise UserError(f"there are no {self.row_name} to {split} on: give data.init_args.{split}")
        return self.datasets[split]

    # ------------------------------------------------------------------ loaders

    @abstractmethod
    def eval_batches(self, split: str) -> Sampler[list[int]]:
        """The batches of `val` or `test`: every row once, the same number on every rank."""

    def stream(self) -> SourceStream[Any, Any]:
        """The stream of training batches."""
        raise NotImplementedError(f"{type(self).__name__} has no stream")

    def train_dataloader(self) -> DataLoader[Any]:
        if self.streaming:
            return self.stream_loader(self.stream())
        return self.loader(self.dataset("train"), self.train_batches())

    def val_dataloader(self) -> DataLoader[Any]:
        return self.loader(self.dataset("val"), self.eval_batches("val"))

    def test_dataloader(self) -> DataLoader[Any]:
        return self.loader(self.dataset("test"), self.eval_batches("test"))

    def predict_dataloader(self) -> DataLoader[Any]:
        # Lightning wraps the sampler to know which rows a prediction is of; it cannot wrap a custom batch sampler.
        loader, share = self.test_dataloader(), self.rank()
        rows = range(share["rank"], len(self.dataset("test")), share["world_size"])
        batch_size = getattr(self, "val_batch_size", None) or getattr(self, "batch_size", 8)
        return DataLoader(loader.dataset, batch_size=batch_size, sampler=rows, collate_fn=loader.collate_fn)

    def stream_loader(self, stream: SourceStream[Any, Any]) -> StreamLoader:
        """A loader of all passes over a stream.

        Raises:
            UserError: If `overfit_batches` asks for rows again.
        """
        trainer: Any = self.trainer
        if trainer is not None and trainer.overfit_batches:
            raise UserError("trainer.overfit_batches needs rows that can be read again: set data.streaming to false")
        options = self.loader_options() | {"persistent_workers": False}  # only new workers see the next pass's number
        return StreamLoader(stream, position=self.position, starts=self._starts, agree=all_agree, **options)

    @property
    def stream_options(self) -> dict[str, Any]:
        """Arguments of every `SourceStream`."""
        return {"buffer": self.shuffle_buffer, "seed": self.seed, **self.rank()}

    # ------------------------------------------------------------------ resuming a stream

    @property
    def stream_identity(self) -> str:
        """What the order of the stream depends on, apart from the number of its readers."""
        columns = f" {sorted(self.columns.items())}" if self.columns else ""
        return f"{self.fingerprint} {self.shuffle_buffer}{columns}"

    def state_dict(self) -> dict[str, Any]:
        if not self.streaming or self.trainer is None:
            return super().state_dict()
        return {"finished": self._finished(), "starts": list(self._starts), "stream": self._stream_hash()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self.streaming or self.trainer is None or not self.trainer.training:
            super().load_state_dict(state_dict)
            return
        self._starts[:] = state_dict["starts"]
        if state_dict["stream"] != self._stream_hash():
            self._starts.append(state_dict["finished"])
            rank_zero_warn(
                "The stream has changed since the checkpoint (data, devices, workers or batches): starting a new pass"
            )

    def _stream_hash(self) -> str:
        shares = self.rank()["world_size"] * max(1, self.num_workers)
        return hashlib.sha256(f"{self.stream_identity} {shares} {self.seed}".encode()).hexdigest()

    # ------------------------------------------------------------------ arguments

    def check_arguments(self, **limits: float) -> None:
        """Checks what all data modules have in common.

        Args:
            **limits: Smallest value of each argument.

        Raises:
            UserError: If an argument is out of range, or a split is an empty list.
        """
        least = {"shuffle_buffer": 1, "num_workers": 0, "seed": 0, "max_bad_rows": 0}
        for name, limit in (least | limits).items():
            value = getattr(self, name)
            if value is not None and value < limit:
                raise UserError(f"data.{name} is {value}: it must be {limit} or more")
        if self.bad_rows not in get_args(BadRows):
            raise UserError(f"data.bad_rows is {self.bad_rows!r}: it must be {' or '.join(get_args(BadRows))}")
        if not 0 < self.val_fraction < 1:
            raise UserError(f"data.val_fraction is {self.val_fraction}: it must lie between 0 and 1")
        for split, names in self.entries.items():
            if not names:
                raise UserError(f"data.{split} is an empty list: name a file, a folder or hub:OWNER/NAME")
