"""Text that is tokenised and packed while it is read, for corpora too large to be prepared."""

import hashlib
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Protocol, final

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader
from tqdm import tqdm

from omni.data.loading.resumable import ResumableData
from omni.distributed import all_agree
from omni.errors import UserError


class Pass(Protocol):
    """One pass over a stream of batches: an `IterableDataset` that `epoch` makes another.

    Attributes:
        epoch: Number of the pass.
    """

    epoch: int

    def __iter__(self) -> Iterator[Any]: ...


@final
class StreamLoader(DataLoader[Any]):
    """Passes over a stream, one after the other, that can be entered at any batch by reading up to it again.

    An iteration goes on where the last one ended, so that a trainer may cut its epochs short, and ends with the pass.

    Args:
        stream: The data.
        position: How many batches of all passes are behind us; None: all that were drawn.
        starts: Where each pass began, as far as known; this list is kept up to date.
        agree: Of several ranks, whether all have one more batch: none may go on alone.
        **options: Of the DataLoader.
    """

    def __init__(
        self,
        stream: "Pass",
        *,
        position: Callable[[], int | None],
        starts: list[int],
        agree: Callable[[bool], bool] = bool,
        **options: Any,
    ):
        dataset: Any = stream
        super().__init__(dataset, batch_size=None, **options)
        self._stream = stream
        self._wanted = position
        self._starts = starts
        self._agree = agree
        self._iterator = None  # of the pass that is being read; where Lightning looks for workers to stop
        self._drawn = starts[-1]  # batches of all passes so far

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        position = self._wanted()
        if position is None:
            position = self._drawn
        if self._iterator is None or position != self._drawn:
            self._seek(position)
        while (batch := self._draw()) is not None:
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Lightning asks for this and the next method before it believes that the loader can resume."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass

    def _seek(self, position: int) -> None:
        number = bisect_right(self._starts, position) - 1
        del self._starts[number + 1 :]
        self._stream.epoch = number
        self._iterator = super().__iter__()
        self._drawn = self._starts[number]
        skipped = position - self._drawn
        if skipped:
            rank_zero_info(f"Reading the stream's pass {number} again up to batch {skipped}, where training continues")
        for _ in tqdm(range(skipped), desc="reading again", disable=None if skipped else True):
            if next(self._iterator, None) is None:
                raise UserError(
                    f"the stream ends before batch {skipped}, where the checkpoint continues: it has changed"
                )
            self._drawn += 1

    def _draw(self) -> Any:
        assert self._iterator is not None
        batch = next(self._iterator, None)
        if self._agree(batch is not None):
            self._drawn += 1
            return batch
        if self._drawn == self._starts[-1]:
            raise UserError("the stream holds no batch for some rank: use fewer devices or more data")
        self._starts.append(self._drawn)
        self._iterator = None
        return None


class StreamableData(ResumableData, ABC):
    """Abstract: a data module that may also train on a stream, and then resumes by reading up to its place again.

    Args:
        streaming: Whether it does.
        num_workers: Processes that load batches; 0: the training process does.
        seed: Of the shuffling.
    """

    only_of_streams: ClassVar[frozenset[str]] = frozenset({"num_workers", "shuffle_buffer"})
    """Constructor arguments that decide in which order a stream comes, and otherwise nothing."""

    def __init__(self, *, streaming: bool, num_workers: int, seed: int):
        super().__init__(num_workers=num_workers, seed=seed)
        self.streaming = streaming
        self._starts = [0]  # of the passes over the stream, in batches

    @property
    @abstractmethod
    def stream_identity(self) -> str:
        """What the order of the stream depends on, save for the number of its readers."""

    def state_dict(self) -> dict[str, Any]:
        if not self.streaming or self.trainer is None:
            return super().state_dict()
        return {"finished": self._finished(), "starts": list(self._starts), "stream": self._identity()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self.streaming or self.trainer is None or not self.trainer.training:
            return super().load_state_dict(state_dict)
        self._starts[:] = state_dict["starts"]
        if state_dict["stream"] != self._identity():
            self._starts.append(state_dict["finished"])
            rank_zero_warn(
                "The stream has changed since the checkpoint (data, devices, workers or batches): a new pass begins"
            )
        return None

    def stream_loader(self, stream: Pass) -> StreamLoader:
        """A loader of all passes over a stream.

        Raises:
            UserError: If the trainer wants to see rows again that are gone.
        """
        trainer: Any = self.trainer
        if trainer is not None and trainer.overfit_batches:
            raise UserError("trainer.overfit_batches needs rows that can be read again: set data.streaming to false")
        options = self.loader_options() | {"persistent_workers": False}  # a worker learns of the next pass by being new
        return StreamLoader(stream, position=self.position, starts=self._starts, agree=all_agree, **options)

    def _identity(self) -> str:
        shares = self.rank()["world_size"] * max(1, self.num_workers)
        return hashlib.sha256(f"{self.stream_identity} {shares} {self.seed}".encode()).hexdigest()
