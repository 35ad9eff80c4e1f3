"""Retrieval of photographs by captions, against a small CLIP that is trained on the same batches."""

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from omni.batch import ImageBatch
from omni.bench.race import Comparison, Race, Report, parameter_counts, training_step
from omni.bench.small_clip import IMAGE_DIM, SmallClip, small_resnet
from omni.checkpoints.checkpoint import Checkpoint
from omni.data.images.data import ImageData
from omni.errors import UserError
from omni.metrics import Retrieval
from omni.optim.optimizers import adamw, lr_factor
from omni.training.configuration import Configuration
from omni.training.shipped import CONFIGS

OMNI, PEER, STARTED = "omni", "CLIP", "CLIP, encoder pretrained"

Embed = Callable[[Tensor], Tensor]


class _Run(NamedTuple):
    """A training.

    Attributes:
        model: What is trained.
        loss: The mean loss of a batch.
        optimizer: Its optimizer.
        curve: The learning rate by step, as a share of its peak.
    """

    model: nn.Module
    loss: Callable[[ImageBatch], Tensor]
    optimizer: Optimizer
    curve: Callable[[int], float]


@dataclass(frozen=True, kw_only=True)
class RetrievalRace(Race):
    """omni's image and text encoders against a small CLIP.

    Attributes:
        train: Images with captions, as `ImageData` reads them.
        val: Others, which are reported; nothing is chosen on them but the learning rate of the peers.
        start: A checkpoint with a vision encoder of `configs/bench/cifar10.yaml`, which omni's starts from.
        images: Labelled images, which pretrain the image encoder of the second peer, and of omni without `start`; None:
            none is pretrained, and there is no second peer.
        image_steps: Steps of that.
        steps: Steps on the captions; the model after the last one is measured.
        vocab_size: Tokens of the captions, by BPE.
        learning_rates: Of the peers; that with the best recall@1 in the first round is taken.
        repeats: Runs from different seeds; the pretrained encoders are the same in all.
    """

    positive: ClassVar[tuple[str, ...]] = ("repeats", "steps", "image_steps", "vocab_size")

    train: str = "data/images/flickr8k/captions.txt@Flickr_8k.trainImages.txt"
    val: str = "data/images/flickr8k/captions.txt@Flickr_8k.devImages.txt"
    start: str | None = None
    images: str | None = "data/images/cifar10/train"
    image_steps: int = 800
    steps: int = 300
    vocab_size: int = 2048
    learning_rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3)
    repeats: int = 3

    def run(self) -> Report:
        """Runs the race.

        Raises:
            UserError: If images cannot be read, or have no captions.
        """
        if not self.learning_rates:
            raise UserError("learning_rates is empty: give one or more")
        captions = {"train": self.train, "val": self.val, "vocab_size": self.vocab_size}
        pairs = Configuration(_config("flickr8k.yaml")).changed(
            {
                **{f"data.init_args.{name}": value for name, value in captions.items()},
                "model.init_args.text_encoder.init_args.vocab_size": self.vocab_size,
            }
        )
        data: ImageData = pairs.make("data")
        data.setup("fit")
        starts = self._starts(pairs)
        recalls = {OMNI: [self._omni(pairs, data, seed, starts.get(OMNI)) for seed in range(self.repeats)]}
        rates = {}
        for name in (PEER, STARTED) if STARTED in starts else (PEER,):
            first = {lr: self._peer(name, data, 0, lr, starts.get(name)) for lr in self.learning_rates}
            lr = rates[name] = max(first, key=lambda rate: first[rate][1])
            others = [self._peer(name, data, seed, lr, starts.get(name)) for seed in range(1, self.repeats)]
            recalls[name] = [first[lr], *others]
        models = {OMNI: pairs.make("model"), PEER: self._new_clip(data)}
        results = [_compared(rank, recalls) for rank in recalls[OMNI][0]]
        conditions = self.conditions(
            "torchvision",
            parameters=parameter_counts(models),
            images=f"{len(data.dataset('train')):,} to train on, {len(data.dataset('val')):,} others to report; "
            f"{data.image_size} × {data.image_size} pixels, five captions each",
            steps=f"{self.steps:,} of {data.batch_size} images"
            + ("" if self.images is None else f", after {self.image_steps:,} on {self.images}")
            + ("" if self.start is None else f"; omni's after {self.start}"),
            peers="AdamW, " + ", ".join(f"{name} at {rate:g}" for name, rate in rates.items()),
        )
        return Report(conditions, results)

    def _starts(self, pairs: Configuration) -> dict[str, dict[str, Tensor]]:
        """The weights of the image encoders of omni and of the second peer, as far as they are not new."""
        found = {}
        if self.start is not None:
            checkpoint, part = Checkpoint(self.start), "vision_encoder"
            stage: Any = pairs.make("model")
            checkpoint.check_fit(stage.vision_encoder, part)
            found[OMNI] = checkpoint.weights_of(part)
        if self.images is not None:
            found |= {name: self._pretrained(name, self.images) for name in (OMNI, STARTED) if name not in found}
        return found

    def _pretrained(self, name: str, images: str) -> dict[str, Tensor]:
        """The weights of an image encoder that was trained to classify labelled images."""
        labelled = Configuration(_config("cifar10.yaml")).changed({
            "data.init_args.train": images, "data.init_args.test": None,
        })  # fmt: skip
        data: ImageData = labelled.make("data")
        data.setup("fit")
        classes = sum(len(attribute.values) for attribute in data.attributes)
        stage: Any = labelled.changed({"model.init_args.classifier.init_args.num_classes": classes}).make("model")
        torch.manual_seed(0)
        if name == OMNI:
            encoder, run = stage.vision_encoder, _stage_run(stage, self.image_steps)
        else:
            encoder = small_resnet()
            classifier = nn.Sequential(encoder, nn.Linear(IMAGE_DIM, classes))
            run = _Run(classifier, partial(_soft_loss, classifier), *_of_peer(classifier, 1e-3, self.image_steps))
        _train(f"{name}, labels", run, data, self.image_steps)
        return {key: value.clone() for key, value in encoder.state_dict().items()}

    def _omni(
        self, pairs: Configuration, data: ImageData, seed: int, start: dict[str, Tensor] | None
    ) -> dict[int, float]:
        """The recalls of omni, by rank."""
        torch.manual_seed(seed)
        stage: Any = pairs.make("model")
        if start is not None:
            stage.vision_encoder.load_state_dict(start)
        label = f"{OMNI}, captions, seed {seed}"
        _train(label, _stage_run(stage, self.steps), data, self.steps)
        return _told(
            label,
            recalls(
                stage,
                data,
                lambda images: stage.contrast.embed_images(stage.vision_encoder(images).pooled),
                lambda tokens: stage.contrast.embed_texts(stage.read(tokens)),
            ),
        )

    def _peer(
        self, name: str, data: ImageData, seed: int, lr: float, start: dict[str, Tensor] | None
    ) -> dict[int, float]:
        """The recalls of a small CLIP, by rank."""
        torch.manual_seed(seed)
        model = self._new_clip(data)
        if start is not None:
            model.image_encoder.load_state_dict(start)
        run = _Run(model, model.loss, *_of_peer(model, lr, self.steps))
        label = f"{name}, captions, seed {seed}, lr {lr:g}"
        _train(label, run, data, self.steps)
        return _told(label, recalls(model, data, model.embed_images, model.embed_texts))

    def _new_clip(self, data: ImageData) -> SmallClip:
        return SmallClip(data.tokenizer.vocab_size, data.caption_tokens)


@torch.no_grad()
def recalls(model: nn.Module, data: ImageData, embed_images: Embed, embed_texts: Embed) -> dict[int, float]:
    """recall@1 and recall@5 among the validation images, averaged over both directions."""
    model.eval()
    found = Retrieval()
    for batch in data.val_dataloader():
        present = batch.caption_ids >= 0
        texts, rows = embed_texts(batch.captions[present]), batch.rows[:, None].expand_as(present)[present]
        found.update(embed_images(batch.images), batch.rows, texts, rows, batch.caption_ids[present])
    model.train()
    shares = found.compute()
    return {rank: float(shares[f"recall@{rank}"]) for rank in found.ranks}


def _told(label: str, found: dict[int, float]) -> dict[int, float]:
    """Writes the recalls of a run to the terminal as soon as they are known, and returns them."""
    tqdm.write(f"{label}: " + ", ".join(f"recall@{rank} {100 * share:.1f} %" for rank, share in found.items()))
    return found


def _train(label: str, run: _Run, data: ImageData, steps: int) -> None:
    peak, batches = [group["lr"] for group in run.optimizer.param_groups], islice(_batches(data), steps)
    for number, batch in enumerate(tqdm(batches, label, total=steps)):
        for group, lr in zip(run.optimizer.param_groups, peak, strict=True):
            group["lr"] = run.curve(number) * lr
        training_step(run.model, partial(run.loss, batch), run.optimizer)()


def _batches(data: ImageData) -> Iterator[ImageBatch]:
    """The same batches for every model."""
    loader = data.train_dataloader()
    for _ in count():
        yield from loader


def _stage_run(stage: Any, steps: int) -> _Run:
    """The training that the stage's configuration describes."""

    def loss(batch: ImageBatch) -> Tensor:
        found = stage.loss(batch)
        return found.total / found.num_items

    optimizer = stage.make_optimizer()
    return _Run(stage, loss, optimizer, stage.lr_curve(optimizer.param_groups[0], steps))


def _of_peer(model: nn.Module, lr: float, steps: int) -> tuple[Optimizer, Callable[[int], float]]:
    """AdamW and a cosine schedule, as open_clip trains."""
    curve = partial(lr_factor, schedule="cosine", warmup_steps=max(1, steps // 10), total_steps=steps, final=0.0)
    return adamw(model, lr=lr, betas=(0.9, 0.98), weight_decay=0.1), curve


def _soft_loss(classifier: nn.Module, batch: ImageBatch) -> Tensor:
    return F.cross_entropy(classifier(batch.images), batch.labels)


def _compared(rank: int, found: dict[str, list[dict[int, float]]]) -> Comparison:
    values: dict[str, float | None] = {
        name: 100 * statistics.median(run[rank] for run in runs) for name, runs in found.items()
    }
    ratios = {
        name: [
            ours[rank] / theirs[rank] if theirs[rank] else math.inf if ours[rank] else 1.0
            for ours, theirs in zip(found[OMNI], runs, strict=True)
        ]
        for name, runs in found.items()
        if name != OMNI
    }
    return Comparison(f"recall@{rank}", "%", values, ratios)


def _config(name: Literal["flickr8k.yaml", "cifar10.yaml"]) -> list[str]:
    return ["--config", str(CONFIGS / "bench" / name)]
