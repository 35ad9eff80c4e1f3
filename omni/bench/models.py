"""Who races: the Thinker and Hugging Face's Llama of the same size, each with its own loss, cache and decoding."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from omni.batch import IGNORE
from omni.decoding.sampling import Sampling, generate
from omni.errors import UserError, install_hint
from omni.models.thinker import Thinker
from omni.optim.optimizers import adamw, muon

Name = Literal["omni", "hf"]
Rules = Literal["equal", "adamw", "muon", "trainer"]  # what optimizes: the same for both, omni's own, HF Trainer's own

_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class BenchmarkModel(Protocol):
    """A language model of given sizes, untrained.

    Attributes:
        model: The model.
    """

    model: nn.Module

    def loss(self, tokens: Tensor) -> Tensor:
        """The mean loss of all tokens (batch, time) but the first of each row."""
        ...

    def transpose_weights_for_decoding(self) -> None:
        """Does to the weights what loading a trained model does."""
        ...

    def decode(self, tokens: Tensor, max_tokens: int) -> int:
        """Continues rows (batch, time) greedily, with a cache; returns how many tokens were said."""
        ...


class Omni:
    """The Thinker.

    Args:
        size: Its arguments.
    """

    def __init__(self, size: dict[str, Any]) -> None:
        self.model = Thinker(**size)

    def loss(self, tokens: Tensor) -> Tensor:
        """See `BenchmarkModel`."""
        targets = torch.cat((tokens[:, 1:], tokens.new_full((len(tokens), 1), IGNORE)), dim=1)
        return self.model.cross_entropy(self.model.encode(tokens).hidden, targets) / tokens[:, 1:].numel()

    def transpose_weights_for_decoding(self) -> None:
        """See `BenchmarkModel`."""
        self.model.transpose_weights_for_decoding()

    def decode(self, tokens: Tensor, max_tokens: int) -> int:
        """See `BenchmarkModel`."""
        greedy = Sampling(temperature=0)
        steps = generate(self.model, tokens.tolist(), max_tokens=max_tokens, stop=-1, sampling=greedy)
        return sum(token is not None for step in steps for token in step)


class Llama:
    """Hugging Face's Llama with the Thinker's sizes. It has all of the Thinker but QK-norm.

    Args:
        size: The Thinker's arguments.

    Raises:
        UserError: If Llama lacks something else that the arguments ask for.
    """

    def __init__(self, size: dict[str, Any]) -> None:
        lacking = {"num_experts": 0, "dropout": 0.0}
        for name, same in lacking.items():
            if size.get(name, same) != same:
                raise UserError(f"Llama cannot have {name} {size[name]}: there is nothing to compare with")
        with torch.device("meta"):
            like = Thinker(**size)
        inner = like.transformer
        transformers = import_transformers()
        config = transformers.LlamaConfig(
            vocab_size=like.vocab_size,
            hidden_size=like.dim,
            intermediate_size=like.get_parameter("transformer.blocks.0.ffn.down.weight").shape[1],
            num_hidden_layers=inner.num_layers,
            num_attention_heads=inner.num_heads,
            num_key_value_heads=inner.num_kv_heads,
            head_dim=inner.head_dim,
            tie_word_embeddings=like.head.weight is like.embedding.weight,
            rms_norm_eps=1e-6,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="sdpa",
        )
        self.model = transformers.LlamaForCausalLM(config).train()
        self.model.config.use_cache = False  # as its Trainer sets it; decoding asks for the cache
        if size.get("gradient_checkpointing"):
            self.model.gradient_checkpointing_enable({"use_reentrant": False})

    def loss(self, tokens: Tensor) -> Tensor:
        """See `BenchmarkModel`."""
        return self.model(input_ids=tokens, labels=tokens).loss

    def transpose_weights_for_decoding(self) -> None:
        """Nothing: Llama decodes with the weights as they were trained."""

    def decode(self, tokens: Tensor, max_tokens: int) -> int:
        """See `BenchmarkModel`."""
        said = self.model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=max_tokens,
            min_new_tokens=max_tokens,
            do_sample=False,
            use_cache=True,
            pad_token_id=0,
        )
        return said[:, tokens.shape[1] :].numel()


def make(name: Name, size: dict[str, Any]) -> BenchmarkModel:
    """The contestant called `name`, on this machine's GPU if there is one."""
    with device():
        return {"omni": Omni, "hf": Llama}[name](size)


def count_parameters(name: Name, size: dict[str, Any]) -> int:
    """Number of a contestant's parameters, shared ones counted once, without making them."""
    with torch.device("meta"):
        model = {"omni": Omni, "hf": Llama}[name](size).model
    return sum(parameter.numel() for parameter in model.parameters())


class Training:
    """A contestant's training step: forward, loss, backward, clip, optimizer, zero.

    Args:
        contestant: Who trains.
        batch_size: Rows of random tokens, the same for all contestants.
        context: Tokens of a row.
        precision: `32-true`, `bf16-mixed` or `16-mixed`.
        rules: What optimizes.
    """

    def __init__(
        self, contestant: BenchmarkModel, *, batch_size: int, context: int, precision: str, rules: Rules = "equal"
    ) -> None:
        self.contestant, self.precision = contestant, precision
        self.parameters = list(contestant.model.parameters())
        self.optimizer = _optimizer(contestant.model, rules)
        self.tokens = random_tokens(contestant, batch_size, context)

    def step(self) -> None:
        """One step."""
        dtype = _AUTOCAST.get(self.precision)
        with torch.autocast(self.tokens.device.type, dtype=dtype, enabled=dtype is not None):
            loss = self.contestant.loss(self.tokens)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def _optimizer(model: nn.Module, rules: Rules) -> Optimizer:
    if rules == "trainer":
        default = import_transformers().TrainingArguments.__dataclass_fields__["optim"].default
        return torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.0, fused="fused" in default)
    return (muon if rules == "muon" else adamw)(model, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)


def random_tokens(contestant: BenchmarkModel, *shape: int) -> Tensor:
    """The same random tokens of a shape for all contestants with one vocabulary."""
    vocab_size = len(next(p for name, p in contestant.model.named_parameters() if "embed" in name))
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(0)).to(device())


def training_memory(name: Name, size: dict[str, Any], threads: int, task: dict[str, Any]) -> int:
    """Bytes that model, optimizer and two training steps take at their worst; to be called in a process of its own.

    On a CPU it is the growth of the process's resident memory, on a GPU what PyTorch allocates.

    Args:
        name: The contestant.
        size: The Thinker's arguments.
        threads: Threads on a CPU.
        task: Arguments of `Training`.
    """
    torch.set_num_threads(threads)
    toy = {"vocab_size": 256, "dim": 16, "num_layers": 1, "num_heads": 1, "ffn_dim": 16}
    Training(make(name, toy), **task).step()  # loads the libraries, which would otherwise count as the model's
    before = _peak(reset=True)
    training = Training(make(name, size), **task)
    for _ in range(2):
        training.step()
    return _peak() - before


def _peak(*, reset: bool = False) -> int:
    """Most bytes held so far, or since a reset."""
    if torch.cuda.is_available():
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if not status.exists():  # macOS
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    # Not `ru_maxrss`: on Linux a new process begins with that of the one that started it.
    if reset:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def import_transformers() -> Any:
    """The `transformers` package, silenced.

    Raises:
        UserError: If it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"this race needs the package transformers: {install_hint('hf')}") from error
    transformers.logging.set_verbosity_error()
    return transformers
