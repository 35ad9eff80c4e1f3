"""nanoGPT's character model, and the time in which the Thinker reaches its loss on the same text."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from omni.bench.race import Comparison, Race, Report, parameter_counts, training_step
from omni.errors import UserError
from omni.optim.optimizers import adamw, lr_factor
from omni.training.configuration import Configuration
from omni.training.shipped import CONFIGS

CONTEXT, BATCH_SIZE, HELD_OUT = 64, 12, 0.1  # nanoGPT's setting for a CPU
_EVALUATED = 96  # rows of a batch of the held-out text


class NanoGPT(nn.Module):
    """GPT-2 at a small size, as in nanoGPT (https://github.com/karpathy/nanoGPT), without biases and dropout.

    Learned positions, LayerNorm, GELU with four times the width, and a head that is tied to the embedding.

    Args:
        vocab_size: Number of characters.
        dim: Width of the residual stream.
        num_layers: Number of blocks.
        num_heads: Heads.
    """

    def __init__(self, vocab_size: int, *, dim: int = 128, num_layers: int = 4, num_heads: int = 4) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, dim), nn.Embedding(CONTEXT, dim)
        self.blocks = nn.ModuleList(_Block(dim, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                last = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * num_layers) ** 0.5 if last else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """The logits of the character after each of `tokens` (batch, time): (batch, time, vocab)."""
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)


class _Block(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(dim, bias=False), nn.LayerNorm(dim, bias=False)
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.up, self.down = nn.Linear(dim, 4 * dim, bias=False), nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.num_heads, -1))
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


class Recipe(NamedTuple):
    """A model and how it is trained.

    Attributes:
        model: The model.
        loss: The summed loss of tokens and targets, (batch, time) each.
        optimizer: Its optimizer.
        lr_curve: The learning rate by step, as a share of its peak.
        steps: Number of steps.
    """

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: Optimizer
    lr_curve: Callable[[int], float]
    steps: int


class Point(NamedTuple):
    """A held-out loss in nats per character, and the seconds of training until then."""

    seconds: float
    loss: float


class Text(NamedTuple):
    """A text as numbers of its characters: `train` is all but the last tenth, `held_out` the rest."""

    train: Tensor
    held_out: Tensor
    num_characters: int

    def batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random rows of the training text, and the characters after each, (batch, time) each."""
        starts = torch.randint(len(self.train) - CONTEXT, (BATCH_SIZE, 1), generator=generator)
        rows = self.train[starts + torch.arange(CONTEXT + 1)]
        return rows[:, :-1], rows[:, 1:]


def read_text(path: Path) -> Text:
    """Reads a text of bytes.

    Raises:
        UserError: If it cannot be read, or is too short.
    """
    try:
        content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise UserError(f"file: {path} cannot be read: {error.strerror}") from error
    if len(content) < 20 * CONTEXT:
        raise UserError(f"file: {path} has {len(content)} characters: give a text of {20 * CONTEXT} or more")
    characters, numbers = np.unique(content, return_inverse=True)
    numbers = torch.from_numpy(numbers.astype(np.int64))
    end = int(len(numbers) * (1 - HELD_OUT))
    return Text(numbers[:end], numbers[end:], len(characters))


@dataclass(frozen=True, kw_only=True)
class NanoGPTRace(Race):
    """The Thinker against nanoGPT's character model on one text.

    Attributes:
        file: The text, such as tiny Shakespeare.
        steps: Steps of nanoGPT's whole run.
        thinker_steps: Steps of the Thinker's run.
        thinker_lr: Its peak learning rate. It, the steps and the warm-up were chosen on the last tenth of the training
            text.
        thinker_warmup: Steps until the peak.
        evaluate_every: Steps of the Thinker between two evaluations, whose time does not count.
        repeats: Runs of both, from different seeds.
    """

    positive: ClassVar[tuple[str, ...]] = ("repeats", "steps", "thinker_steps", "thinker_warmup", "evaluate_every")

    file: Path = Path("input.txt")
    steps: int = 2000
    thinker_steps: int = 320
    thinker_lr: float = 1.6e-2
    thinker_warmup: int = 20
    evaluate_every: int = 20
    repeats: int = 3

    def run(self) -> Report:
        """Runs the race.

        Raises:
            UserError: If the text cannot be read.
        """
        text = read_text(self.file)
        rounds = [self._round(text, seed) for seed in range(self.repeats)]
        ends = {"omni": [points[-1] for points, _ in rounds], "nanoGPT": [goal for _, goal in rounds]}
        reached = [next((p.seconds for p in points if p.loss <= goal.loss), math.inf) for points, goal in rounds]
        median = statistics.median(reached)
        times = {
            "omni": None if math.isinf(median) else median,
            "nanoGPT": statistics.median(goal.seconds for goal in ends["nanoGPT"]),
        }
        ratios = [goal.seconds / seconds for goal, seconds in zip(ends["nanoGPT"], reached, strict=True)]
        losses = {name: 1000 * statistics.median(point.loss for point in found) for name, found in ends.items()}
        results = [
            Comparison("time to nanoGPT's last loss", "s", times, {"nanoGPT": ratios}),
            Comparison("last loss", "1/1000 nats per character", {**losses}, {}),
        ]
        models = {"omni": self._thinker().model, "nanoGPT": NanoGPT(text.num_characters)}
        run = self.conditions(
            text=f"{self.file.name}, last tenth held out",
            steps=f"{self.thinker_steps:,} and {self.steps:,} of {BATCH_SIZE} × {CONTEXT} characters, fp32",
            parameters=parameter_counts(models),
        )
        return Report(run, results)

    def _round(self, text: Text, seed: int) -> tuple[list[Point], Point]:
        """The Thinker's losses, and nanoGPT's last."""
        torch.manual_seed(seed)
        nanogpt, thinker = _nanogpt(text.num_characters, self.steps), self._thinker()
        goal = _train(f"nanoGPT {seed}", nanogpt, text, seed, evaluate_every=self.steps)[-1]
        return _train(f"omni {seed}", thinker, text, seed, evaluate_every=self.evaluate_every), goal

    def _thinker(self) -> Recipe:
        """The Thinker of `configs/bench/shakespeare_char.yaml`, with its optimizer, and a schedule for a short run."""
        shipped = Configuration(["--config", str(CONFIGS / "bench/shakespeare_char.yaml")])
        schedule = {"lr": self.thinker_lr, "warmup_steps": self.thinker_warmup}
        stage: Any = shipped.changed({f"model.init_args.{name}": value for name, value in schedule.items()}).make(
            "model"
        )
        optimizer, thinker = stage.make_optimizer(), stage.thinker

        def loss(tokens: Tensor, targets: Tensor) -> Tensor:
            return thinker.cross_entropy(thinker.encode(tokens).hidden, targets)

        curve = stage.lr_curve(optimizer.param_groups[0], self.thinker_steps)
        return Recipe(thinker, loss, optimizer, curve, self.thinker_steps)


def _train(label: str, recipe: Recipe, text: Text, seed: int, *, evaluate_every: int) -> list[Point]:
    """The held-out losses during a run, the last after its last step."""
    generator, peak = torch.Generator().manual_seed(seed), [group["lr"] for group in recipe.optimizer.param_groups]
    batch: list[tuple[Tensor, Tensor]] = []
    step = training_step(recipe.model, lambda: recipe.loss(*batch[-1]) / batch[-1][0].numel(), recipe.optimizer)
    points, spent = [], 0.0
    for number in tqdm(range(recipe.steps), label):
        start = time.perf_counter()
        batch[:] = [text.batch(generator)]
        for group, lr in zip(recipe.optimizer.param_groups, peak, strict=True):
            group["lr"] = recipe.lr_curve(number) * lr
        step()
        spent += time.perf_counter() - start
        if (number + 1) % evaluate_every == 0 or number + 1 == recipe.steps:
            points.append(Point(spent, held_out_loss(recipe, text)))
    return points


@torch.no_grad()
def held_out_loss(recipe: Recipe, text: Text) -> float:
    """Nats per character of the held-out text, in rows of the context's length one after the other."""
    whole = (len(text.held_out) - 1) // CONTEXT * CONTEXT
    tokens, targets = (text.held_out[i : i + whole].view(-1, CONTEXT) for i in (0, 1))
    recipe.model.eval()
    total = sum(
        float(recipe.loss(a, b)) for a, b in zip(tokens.split(_EVALUATED), targets.split(_EVALUATED), strict=True)
    )
    recipe.model.train()
    return total / whole


def _nanogpt(num_characters: int, steps: int) -> Recipe:
    """nanoGPT with its published optimizer and schedule, and PyTorch's fused AdamW."""
    model = NanoGPT(num_characters)

    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), reduction="sum")

    curve = partial(lr_factor, schedule="cosine", warmup_steps=100, total_steps=steps, final=0.1)
    return Recipe(model, loss, adamw(model, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1), curve, steps)
