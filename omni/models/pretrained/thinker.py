"""A pretrained language model, in place of our Thinker."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from omni import losses
from omni.batch import IGNORE
from omni.errors import UserError, install_hint
from omni.layers.readout import readout
from omni.layers.transformer import TransformerOutput
from omni.models.interfaces import LanguageModel
from omni.models.pretrained.cache import PretrainedCache, cache_argument
from omni.models.pretrained.loading import PretrainedPart, checkpoint_layers
from omni.text.tokenizer import NUM_SPECIALS

_PROBE = 4  # tokens on which body and head are compared with the whole model


class PretrainedThinker(PretrainedPart, LanguageModel):
    """Any causal language model of `transformers`, with the interface of `omni.models.thinker.Thinker`.

    Token ids are the model's own plus `NUM_SPECIALS` (see `omni.models.pretrained.tokenizer`): placeholders of media
    are not ids of the model, and no row is added to its embedding. Positions are token indices.

    With LoRA (arXiv:2106.09685) its weights are frozen, and low-rank updates of its matrices are trained.

    Args:
        gradient_checkpointing: Whether activations of layers are recomputed in the backward pass.
        lora_rank: Rank of the updates; 0 for none.
        lora_alpha: Scale of the updates, which is divided by the rank; 2 × rank if not given.
        lora_dropout: Dropout of the input of the updates.
        lora_targets: Names or name suffixes of the updated matrices; `all-linear` for all but the head.
        kwargs: See `PretrainedPart`. LoRA is fp32 for any `dtype`.
    """

    rope_axes = 1
    mixture = False

    def __init__(
        self,
        *,
        gradient_checkpointing: bool = False,
        lora_rank: int = 0,
        lora_alpha: float | None = None,
        lora_dropout: float = 0.0,
        lora_targets: str | Sequence[str] = "all-linear",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if lora_rank < 0:
            raise ValueError(f"lora_rank must be 0 or more, not {lora_rank}")
        self.model: Any = self.load("AutoModelForCausalLM")
        self._record_fingerprint(self.model)
        embedding, head = self.model.get_input_embeddings(), self.model.get_output_embeddings()
        if embedding is None or head is None:
            raise UserError(f"{self.source}: is not a causal language model with an embedding and a head")
        if isinstance(head, nn.Linear):
            readout(head)
        vocabulary, self.dim = embedding.weight.shape
        self.vocab_size = NUM_SPECIALS + vocabulary
        config = self.model.config
        self.logit_softcap: float | None = getattr(config, "final_logit_softcapping", None)
        scale, divisor = (getattr(config, name, None) or 1.0 for name in ("logit_scale", "logits_scaling"))
        self.logit_scale = float(scale / divisor)
        self._check()
        self.lora_rank, self._tuner = lora_rank, None
        if lora_rank:
            self._add_lora(lora_alpha or 2 * lora_rank, lora_dropout, lora_targets)
        self._omit_pretrained()
        if gradient_checkpointing:
            checkpoint_layers(self.model, self.source)

    # ------------------------------------------------------------------ the interface of a Thinker

    @property
    def embedding_rms(self) -> float:
        """Root mean square of the token embeddings, measured on 4,096 of them."""
        weight = self._embedding.weight
        step = max(1, len(weight) // 4096)
        with torch.no_grad():  # by the module: some models scale embeddings
            some = self._embedding(torch.arange(0, len(weight), step, device=weight.device))
            return float(some.float().square().mean().sqrt())

    @property
    def flops_per_token(self) -> float:
        """See `Thinker.flops_per_token`; 4 instead of 6 per frozen weight."""
        body = [p for name, p in self._body.named_parameters() if p is not self._embedding.weight]
        return float(sum((6 if p.requires_grad else 4) * p.numel() for p in [*body, self._head.weight]))

    def embed(self, tokens: Tensor) -> Tensor:
        """Looks up tokens (batch, time): (batch, time, dim), undefined at placeholders and padding."""
        return self._embedding((tokens - NUM_SPECIALS).clamp(min=0))

    def encode_embeddings(
        self, embeddings: Tensor, positions: Tensor | None, mask: Tensor | None, cache: PretrainedCache | None
    ) -> TransformerOutput:
        options: dict[str, Any] = {"attention_mask": mask, "position_ids": positions, "use_cache": False}
        if cache is not None:
            options = cache.options(embeddings.shape[1])
        hidden = self._body(inputs_embeds=embeddings, **options).last_hidden_state
        return TransformerOutput(hidden, hidden.new_zeros(()))

    def logits(self, hidden: Tensor) -> Tensor:
        """Applies the head to hidden states (..., dim): (..., vocab), with -inf for omni's special tokens."""
        return F.pad(self._own_logits(hidden), (NUM_SPECIALS, 0), value=-torch.inf)

    def cross_entropy(self, hidden: Tensor, targets: Tensor, item_weights: Tensor | None = None) -> Tensor:
        """Sum of the next-token losses over hidden states, in chunks (see `losses.linear_cross_entropy`).

        The logits of a head with a bias, a soft cap or LoRA are computed twice.
        """
        wanted = torch.where(targets == IGNORE, IGNORE, targets - NUM_SPECIALS)
        plain = isinstance(self._head, nn.Linear) and self._head.bias is None  # LoRA wraps the head
        if plain and self.logit_softcap is None:
            return losses.linear_cross_entropy(hidden * self.logit_scale, self._head.weight, wanted, item_weights)
        chunk = losses.positions_per_chunk(self.vocab_size)
        item_weights = (targets != IGNORE).float() if item_weights is None else item_weights
        flat = hidden.flatten(0, -2), wanted.flatten(), item_weights.flatten()
        parts = zip(*(tensor.split(chunk) for tensor in flat), strict=True)
        return torch.stack([checkpoint(self._chunk_loss, *part, use_reentrant=False) for part in parts]).sum()

    def _chunk_loss(self, hidden: Tensor, targets: Tensor, item_weights: Tensor) -> Tensor:
        nll = F.cross_entropy(self._own_logits(hidden).float(), targets, ignore_index=IGNORE, reduction="none")
        return (nll * item_weights).sum()

    def new_cache(self, batch_size: int, max_length: int) -> PretrainedCache:
        argument = cache_argument(self._body.forward)
        return PretrainedCache(batch_size, max_length, device=self._embedding.weight.device, argument=argument)

    # ------------------------------------------------------------------ parts of the model

    @property
    def _embedding(self) -> Any:
        return self.model.get_input_embeddings()

    @property
    def _head(self) -> Any:
        return self.model.get_output_embeddings()

    @property
    def _body(self) -> Any:
        return self.model.base_model

    def _own_logits(self, hidden: Tensor) -> Tensor:
        logits, cap = self._head(hidden) * self.logit_scale, self.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    @torch.no_grad()
    def _check(self) -> None:
        """Refuses models with further operations on logits, which training would leave out."""
        if self._embedding.weight.is_meta or not self._fingerprint:
            return
        mode = self.model.training
        self.model.eval()
        embeddings = self._embedding(torch.arange(min(_PROBE, len(self._embedding.weight)))[None])
        whole = self.model(inputs_embeds=embeddings).logits
        parts = self._own_logits(self._body(inputs_embeds=embeddings).last_hidden_state)
        self.model.train(mode)
        if not torch.allclose(whole.float(), parts.float(), rtol=1e-2, atol=1e-3 * float(whole.float().abs().max())):
            raise UserError(
                f"{self.source}: its logits are computed in a way that omni does not support: use another model"
            )

    # ------------------------------------------------------------------ LoRA

    def _add_lora(self, alpha: float, dropout: float, targets: str | Sequence[str]) -> None:
        try:
            from peft import LoraConfig, LoraModel
        except ImportError as error:
            raise UserError(
                f"model.init_args.thinker: LoRA needs the package peft: {install_hint('hf')} ({error})"
            ) from error
        wanted = targets if isinstance(targets, str) else list(targets)
        transposed = any(type(module).__name__ == "Conv1D" for module in self.model.modules())  # GPT-2's
        scale: Any = alpha  # declared as int, but divided by the rank
        config = LoraConfig(
            r=self.lora_rank, lora_alpha=scale, lora_dropout=dropout, target_modules=wanted, fan_in_fan_out=transposed
        )
        try:
            tuner = LoraModel(self.model, config, "default")
        except ValueError as error:
            linear = [name for name, module in self.model.named_modules() if isinstance(module, nn.Linear)]
            names = sorted({name.rpartition(".")[2] for name in linear})
            raise UserError(
                f"model.init_args.thinker.init_args.lora_targets {wanted!r} match nothing in {self.source}; "
                f"it has: {', '.join(names)}"
            ) from error
        self._check_tied(wanted)
        for name, parameter in self.model.named_parameters():
            trained = "lora_" in name
            parameter.requires_grad_(trained)
            if trained:
                parameter.data = parameter.data.float()
        vars(self)["_tuner"] = tuner  # not a child: the model is

    def _check_tied(self, wanted: str | Sequence[str]) -> None:
        """Refuses LoRA on a matrix shared by embedding and head: merging one update would change the other.

        Raises:
            UserError: If there is one.
        """
        embedding, head = self._embedding, self._head
        updated = any("lora_" in name for module in (embedding, head) for name, _ in module.named_parameters())
        if updated and embedding.weight is head.weight:
            raise UserError(
                f"model.init_args.thinker.init_args.lora_targets {wanted!r}: {self.source} has one matrix as embedding "
                "and head, which LoRA cannot update in one of the two places: leave them out"
            )

    def merge_lora(self) -> None:
        """Merges the updates into the weights; the output stays the same."""
        if self._tuner is None:
            return
        dense = {name.removesuffix(".lora_A.default.weight") for name in self.state_dict() if ".lora_A." in name}
        self.model = self._tuner.merge_and_unload(safe_merge=True)
        self._tuner, self.lora_rank = None, 0
        self._arguments = {k: v for k, v in self._arguments.items() if not k.startswith("lora_")}
        self._omit_pretrained()
        self.keep_weights({f"{name}.weight" for name in dense})
