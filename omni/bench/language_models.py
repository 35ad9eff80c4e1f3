"""The Thinker and Hugging Face's Llama of the same size, each with its own loss, cache and decoding."""

from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from omni.batch import IGNORE
from omni.bench.peak import peak_resident
from omni.bench.race import count_parameters, training_step
from omni.decoding.sampling import Sampling, generate
from omni.errors import UserError, install_hint
from omni.layers.compilation import compile_blocks, trained_blocks
from omni.models.thinker import Thinker
from omni.optim.optimizers import adamw, muon

ModelName = Literal["omni", "hf"]
OptimizerName = Literal["adamw", "muon", "trainer"]  # trainer: the default of Hugging Face's Trainer


class BenchmarkModel(Protocol):
    """An untrained language model.

    Attributes:
        model: The model.
    """

    model: nn.Module

    def loss(self, tokens: Tensor) -> Tensor:
        """The mean loss of tokens (batch, time), without the first of each row."""
        ...

    def compile(self) -> None:
        """Compiles the model for training."""
        ...

    def transpose_weights_for_decoding(self) -> None:
        """Lays out the weights as after loading a trained model."""
        ...

    def decode(self, tokens: Tensor, max_tokens: int) -> int:
        """Continues rows (batch, time) greedily, with a cache; returns the number of generated tokens."""
        ...


class OmniThinker:
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

    def compile(self) -> None:
        """See `BenchmarkModel`: its blocks, as in long runs."""
        compile_blocks(trained_blocks(self.model))

    def transpose_weights_for_decoding(self) -> None:
        """See `BenchmarkModel`."""
        self.model.transpose_weights_for_decoding()

    def decode(self, tokens: Tensor, max_tokens: int) -> int:
        """See `BenchmarkModel`."""
        greedy = Sampling(temperature=0)
        steps = generate(self.model, tokens.tolist(), max_tokens=max_tokens, stop=-1, sampling=greedy)
        return sum(token is not None for step in steps for token in step)


class HuggingFaceLlama:
    """Hugging Face's Llama with the Thinker's sizes. It has everything of the Thinker except QK-norm.

    Args:
        size: The Thinker's arguments.

    Raises:
        UserError: If the arguments need something else that Llama lacks.
    """

    def __init__(self, size: dict[str, Any]) -> None:
        lacking = {"num_experts": 0, "dropout": 0.0}
        for name, same in lacking.items():
            if size.get(name, same) != same:
                raise UserError(f"Llama cannot have {name} {size[name]}: compare another size")
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
        self.model.config.use_cache = False  # as its Trainer sets it; decoding uses the cache
        if size.get("gradient_checkpointing"):
            self.model.gradient_checkpointing_enable({"use_reentrant": False})

    def loss(self, tokens: Tensor) -> Tensor:
        """See `BenchmarkModel`."""
        return self.model(input_ids=tokens, labels=tokens).loss

    def compile(self) -> None:
        """See `BenchmarkModel`: the whole model, as `torch_compile` of its Trainer does."""
        self.model.compile()

    def transpose_weights_for_decoding(self) -> None:
        """Does nothing: Llama decodes with the weights as trained."""

    def decode(self, tokens: Tensor, max_tokens: int) -> int:
        """See `BenchmarkModel`."""
        rows = self.model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=max_tokens,
            min_new_tokens=max_tokens,
            do_sample=False,
            use_cache=True,
            pad_token_id=0,
        )
        return rows[:, tokens.shape[1] :].numel()


MODELS = {"omni": OmniThinker, "hf": HuggingFaceLlama}


def build_model(name: ModelName | str, size: dict[str, Any]) -> BenchmarkModel:
    """A model on this machine's GPU if there is one.

    Args:
        name: `omni` or `hf`.
        size: The Thinker's arguments.
    """
    with gpu_or_cpu():
        return MODELS[name](size)


def model_parameters(name: ModelName | str, size: dict[str, Any]) -> int:
    """Number of parameters of a model, without allocating them."""
    with torch.device("meta"):
        return count_parameters(MODELS[name](size).model)


def model_training_step(
    model: BenchmarkModel, *, batch_size: int, context: int, precision: str, optimizer: OptimizerName = "adamw"
) -> Callable[[], None]:
    """A training step on the same random tokens for all models.

    Args:
        model: The model.
        batch_size: Rows.
        context: Tokens in a row.
        precision: `32-true`, `bf16-mixed` or `16-mixed`.
        optimizer: The optimizer.
    """
    tokens = random_tokens(model, batch_size, context)
    return training_step(
        model.model, lambda: model.loss(tokens), _optimizer(model.model, optimizer), precision=precision
    )


def _optimizer(model: nn.Module, name: OptimizerName) -> Optimizer:
    if name == "trainer":
        default = import_transformers().TrainingArguments.__dataclass_fields__["optim"].default
        return torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.0, fused="fused" in default)
    return (muon if name == "muon" else adamw)(model, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)


def random_tokens(model: BenchmarkModel, *shape: int) -> Tensor:
    """Random tokens of a shape, the same for all models with one vocabulary."""
    vocab_size = len(next(p for name, p in model.model.named_parameters() if "embed" in name))
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(0)).to(gpu_or_cpu())


def training_memory(name: ModelName | str, size: dict[str, Any], threads: int, task: dict[str, Any]) -> int:
    """Peak bytes of the model, its optimizer and two training steps; to be called in a new process.

    On a CPU this is the growth of the process's resident memory, on a GPU PyTorch's allocations.

    Args:
        name: `omni` or `hf`.
        size: The Thinker's arguments.
        threads: Threads on a CPU.
        task: Arguments of `model_training_step`.
    """
    torch.set_num_threads(threads)
    toy = {"vocab_size": 256, "dim": 16, "num_layers": 1, "num_heads": 1, "ffn_dim": 16}
    model_training_step(build_model(name, toy), **task)()  # loads the libraries, which would count as the model's
    before = _peak(reset=True)
    step = model_training_step(build_model(name, size), **task)
    step()
    step()
    return _peak() - before


def _peak(*, reset: bool = False) -> int:
    """Peak bytes so far, or since a reset."""
    if torch.cuda.is_available():
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    return peak_resident(reset=reset)


def gpu_or_cpu() -> torch.device:
    """The CUDA GPU if there is one, else the CPU."""
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
