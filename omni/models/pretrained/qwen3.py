"""The Thinker as Qwen3 and Qwen3-MoE of `transformers` (arXiv:2505.09388), and back: configuration and weights.

The blocks are equal: pre-norm RMSNorm, SwiGLU, GQA, rotary halves, top-k experts with renormalised weights. Three
things differ:

- The Thinker multiplies embeddings by `sqrt(dim)`. Qwen3's embedding includes the factor; where the head shares it, the
  last norm is divided by the factor instead, so that the matrix stays shared.
- Queries and keys of the Thinker have a scale for each head after their norm, those of Qwen3 one for all heads. Where
  the scales differ, heads are exported at twice their size: a head's `d` channels times the scales `s ≤ sqrt(2)`, and
  the same channels times `sqrt(2 - s²)`. Their mean square is then that of the channels alone, whatever the scales, and
  Qwen3's shared scale is 0 on the second half. Exact, for twice the size of the KV cache.
- Position axes: on text, TM-RoPE equals rotary positions of one axis.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from omni.errors import UserError
from omni.layers.attention import Attention
from omni.layers.feedforward import FeedForward
from omni.layers.moe import MixtureOfExperts
from omni.layers.transformer import Block
from omni.models.interfaces import LanguageModel
from omni.models.thinker import Thinker

DOUBLED = "omni_doubled_heads"  # in the configuration: heads have twice the Thinker's size
_EPS, _THETA = 1e-6, 10_000.0
_KINDS = ("qwen3", "qwen3_moe")
# Arguments of the Thinker that the configuration represents, or that do not change its output in inference.
_KNOWN = {
    *("vocab_size", "tied", "dim", "num_layers", "num_heads", "num_kv_heads", "head_dim", "ffn_dim", "rope_axes"),
    *("num_experts", "experts_per_token", "dropout", "shared_qk_scales", "gradient_checkpointing"),
}


class Qwen3(NamedTuple):
    """A model of `transformers`.

    Attributes:
        config: Arguments of `Qwen3Config` or `Qwen3MoeConfig`, with `model_type`.
        weights: State dict of `Qwen3ForCausalLM` or `Qwen3MoeForCausalLM`, in fp32.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor]


def to_qwen3(thinker: LanguageModel) -> Qwen3:
    """The Qwen3 model whose logits on text equal those of a Thinker.

    Raises:
        UserError: If it is not a Thinker of omni, or has an option that Qwen3 has not.
    """
    if not isinstance(thinker, Thinker):
        raise UserError(
            f"its thinker is a {type(thinker).__name__}, already a model of transformers: only a Thinker of omni is "
            "exported"
        )
    if unknown := sorted(thinker.recipe["init_args"].keys() - _KNOWN):
        raise UserError(
            f"its thinker has {unknown[0]}, which Qwen3 of transformers has not: a Thinker with dense or MoE blocks, "
            "GQA and QK-norm can be exported"
        )
    transformer = thinker.transformer
    doubled = any(_scales_differ(block.attention) for block in _blocks(thinker))
    tied = thinker.head.weight is thinker.embedding.weight
    factor = thinker.dim**0.5
    weights = {
        "model.embed_tokens.weight": thinker.embedding.weight * factor,
        "model.norm.weight": transformer.norm.weight / (factor if tied else 1.0),
        "lm_head.weight": thinker.head.weight * (factor if tied else 1.0),
    }
    for number, block in enumerate(_blocks(thinker)):
        prefix = f"model.layers.{number}."
        found = {"input_layernorm.weight": block.attention_norm.weight}
        found |= {"post_attention_layernorm.weight": block.ffn_norm.weight}
        found |= {f"self_attn.{name}": weight for name, weight in _attention(block.attention, doubled).items()}
        found |= {f"mlp.{name}": weight for name, weight in _feed_forward(block.ffn).items()}
        weights |= {prefix + name: weight for name, weight in found.items()}
    plain = {name: w.detach().float().clone(memory_format=torch.contiguous_format) for name, w in weights.items()}
    return Qwen3(_config(thinker, tied=tied, doubled=doubled), plain)


def from_qwen3(config: Mapping[str, Any], weights: Mapping[str, Tensor], source: str) -> Thinker:
    """The Thinker whose logits equal those of a Qwen3 model.

    Args:
        config: Its `config.json`, with the defaults of `transformers`.
        weights: Its state dict.
        source: Where it comes from, for errors.

    Raises:
        UserError: If the model is of another architecture, or has an option that the Thinker has not.
    """
    check_config(config, source)
    doubled, mixture = bool(config.get(DOUBLED)), config["model_type"] == "qwen3_moe"
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    experts = {}
    if mixture:  # the configuration has one of two names
        count = config["num_local_experts"] if "num_local_experts" in config else config["num_experts"]
        experts = {"num_experts": count, "experts_per_token": config["num_experts_per_tok"]}
    thinker = Thinker(
        vocab_size=config["vocab_size"],
        tied=config["tie_word_embeddings"],
        dim=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        num_kv_heads=config["num_key_value_heads"],
        head_dim=head_dim // 2 if doubled else head_dim,
        ffn_dim=config["moe_intermediate_size" if mixture else "intermediate_size"],
        shared_qk_scales=not doubled,
        **experts,
    ).eval()
    factor = thinker.dim**0.5
    with torch.no_grad():
        thinker.embedding.weight.copy_(weights["model.embed_tokens.weight"] / factor)
        thinker.transformer.norm.weight.copy_(weights["model.norm.weight"])
        if config["tie_word_embeddings"]:
            thinker.transformer.norm.weight.mul_(factor)
        else:
            thinker.head.weight.copy_(weights["lm_head.weight"])
        for number, block in enumerate(_blocks(thinker)):
            prefix = f"model.layers.{number}."
            own = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
            block.attention_norm.weight.copy_(own["input_layernorm.weight"])
            block.ffn_norm.weight.copy_(own["post_attention_layernorm.weight"])
            _fill_attention(block.attention, own, doubled)
            _fill_feed_forward(block.ffn, own)
    return thinker


def _blocks(thinker: Thinker) -> list[Block]:
    return [block for block in thinker.transformer.blocks if isinstance(block, Block)]


# ---------------------------------------------------------------------- configuration


def _config(thinker: Thinker, *, tied: bool, doubled: bool) -> dict[str, Any]:
    transformer = thinker.transformer
    ffn = _blocks(thinker)[0].ffn
    config = {
        "model_type": "qwen3",
        "vocab_size": thinker.vocab_size,
        "hidden_size": thinker.dim,
        "num_hidden_layers": transformer.num_layers,
        "num_attention_heads": transformer.num_heads,
        "num_key_value_heads": transformer.num_kv_heads,
        "head_dim": transformer.head_dim * (2 if doubled else 1),
        "rms_norm_eps": _EPS,
        "rope_parameters": {"rope_type": "default", "rope_theta": transformer.rotary.theta},
        "tie_word_embeddings": tied,
    }
    if doubled:
        config[DOUBLED] = True
    if not isinstance(ffn, MixtureOfExperts):
        return config | {"intermediate_size": ffn.down.in_features}
    return config | {
        "model_type": "qwen3_moe",
        "moe_intermediate_size": ffn.down.shape[1],
        "intermediate_size": ffn.down.shape[1],
        "num_experts": ffn.num_experts,
        "num_experts_per_tok": ffn.experts_per_token,
        "norm_topk_prob": True,
    }


def check_config(config: Mapping[str, Any], source: str) -> None:
    """Refuses a model that the Thinker cannot represent.

    Args:
        config: As in `from_qwen3`.
        source: Where it comes from, for errors.

    Raises:
        UserError: Naming the option.
    """
    kind = config.get("model_type")
    if kind not in _KINDS:
        raise UserError(
            f"{source} is a model of architecture {kind!r}: a Thinker starts from {' or '.join(_KINDS)} (configs/"
            "asr_llm.yaml uses others, frozen or with LoRA)"
        )
    rope = config.get("rope_parameters") or {}
    needed = {
        "hidden_act": (config["hidden_act"], "silu"),
        "rms_norm_eps": (config["rms_norm_eps"], _EPS),
        "attention_bias": (config["attention_bias"], False),
        "use_sliding_window": (config["use_sliding_window"], False),
        "rope_type": (rope.get("rope_type", "default"), "default"),
        "rope_theta": (float(rope.get("rope_theta", 0)), _THETA),
    }
    if kind == "qwen3_moe":
        needed["norm_topk_prob"] = (config["norm_topk_prob"], True)
        needed["decoder_sparse_step"] = (config["decoder_sparse_step"], 1)
        needed["mlp_only_layers"] = (config["mlp_only_layers"] or [], [])
    for name, (found, wanted) in needed.items():
        if found != wanted:
            raise UserError(f"{source} has {name} {found!r} in its config.json, and the Thinker {wanted!r}")


# ---------------------------------------------------------------------- attention


def _scales(attention: Attention) -> tuple[Tensor, Tensor]:
    """Scales of queries and of keys after their norm, (heads, head_dim) each."""
    weight = attention.qk_norm.scale().detach().float()
    return weight[: attention.num_heads], weight[attention.num_heads :]


def _scales_differ(attention: Attention) -> bool:
    return any(not torch.equal(scales, scales[:1].expand_as(scales)) for scales in _scales(attention))


def _attention(attention: Attention, doubled: bool) -> dict[str, Tensor]:
    size = attention.head_dim
    heads = (attention.num_heads, attention.num_kv_heads, attention.num_kv_heads)
    queries, keys, values = attention.qkv.weight.float().view(sum(heads), size, -1).split(heads)
    out = attention.out.weight.float().unflatten(1, (attention.num_heads, size))  # (dim, heads, head_dim)
    query_scale, key_scale = (scales[0] for scales in _scales(attention))
    if doubled:
        (queries, query_scale), (keys, key_scale) = (
            _doubled(weight, scales) for weight, scales in zip((queries, keys), _scales(attention), strict=True)
        )
        query_scale = query_scale * 2**0.5  # scores are divided by the root of the head's size
        values = torch.cat((values, torch.zeros_like(values)), dim=1)
        out = torch.cat((out, torch.zeros_like(out)), dim=2)
    return {
        "q_proj.weight": queries.flatten(0, 1),
        "k_proj.weight": keys.flatten(0, 1),
        "v_proj.weight": values.flatten(0, 1),
        "o_proj.weight": out.flatten(1),
        "q_norm.weight": query_scale,
        "k_norm.weight": key_scale,
    }


def _places(head_dim: int) -> tuple[Tensor, Tensor]:
    """Rows of the channels, and of their complements, in a head of twice the size: frequencies stay the same."""
    channels = torch.arange(head_dim) * 2
    return channels, channels + 1


def _doubled(weight: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Matrix (heads, 2 × head_dim, dim) and shared scale (2 × head_dim,) of heads with scales of their own."""
    channels, complements = _places(weight.shape[1])
    largest = scales.abs().amax(0).clamp(min=torch.finfo(torch.float32).tiny)
    own = (scales / largest * 2**0.5)[..., None]
    grown = weight.new_zeros(len(weight), 2 * weight.shape[1], weight.shape[2])
    grown[:, channels] = own * weight
    grown[:, complements] = (2 - own.square()).clamp(min=0).sqrt() * weight
    shared = weight.new_zeros(2 * weight.shape[1])
    shared[channels] = largest / 2**0.5
    return grown, shared


def _halved(grown: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `_doubled`: matrix (heads, head_dim, dim) and scales (heads, head_dim)."""
    channels, complements = _places(grown.shape[1] // 2)
    first, second = grown[:, channels], grown[:, complements]
    sign = torch.where((first * second).sum(-1) < 0, -1.0, 1.0)
    squares = first.square().sum(-1), second.square().sum(-1)
    own = sign * (2 * squares[0] / (squares[0] + squares[1]).clamp(min=torch.finfo(torch.float32).tiny)).sqrt()
    weight = (first * own[..., None] + second * (2 - own.square()).clamp(min=0).sqrt()[..., None]) / 2
    return weight, own * shared[channels]


def _fill_attention(attention: Attention, own: Mapping[str, Tensor], doubled: bool) -> None:
    heads = {"q": attention.num_heads, "k": attention.num_kv_heads, "v": attention.num_kv_heads}
    matrices = {name: own[f"self_attn.{name}_proj.weight"].unflatten(0, (count, -1)) for name, count in heads.items()}
    scales = {name: own[f"self_attn.{name}_norm.weight"] for name in "qk"}
    out = own["self_attn.o_proj.weight"].unflatten(1, (attention.num_heads, -1))
    if doubled:
        for name, factor in {"q": 2**0.5, "k": 1.0}.items():
            matrices[name], scales[name] = _halved(matrices[name], scales[name] / factor)
        matrices["v"], out = matrices["v"][:, : attention.head_dim], out[..., : attention.head_dim]
    attention.qkv.weight.copy_(torch.cat([matrices[name].flatten(0, 1) for name in "qkv"]))
    attention.qk_norm.weight.copy_(torch.cat([scales[name].flatten() for name in "qk"]))
    attention.out.weight.copy_(out.flatten(1))


# ---------------------------------------------------------------------- feed-forward


def _feed_forward(ffn: FeedForward | MixtureOfExperts) -> dict[str, Tensor]:
    if isinstance(ffn, MixtureOfExperts):
        return {
            "gate.weight": ffn.router.weight,
            "experts.gate_up_proj": ffn.up.transpose(1, 2),
            "experts.down_proj": ffn.down.transpose(1, 2),
        }
    gate, up = ffn.up.weight.chunk(2)
    return {"gate_proj.weight": gate, "up_proj.weight": up, "down_proj.weight": ffn.down.weight}


def _fill_feed_forward(ffn: FeedForward | MixtureOfExperts, own: Mapping[str, Tensor]) -> None:
    if isinstance(ffn, MixtureOfExperts):
        ffn.router.weight.copy_(own["mlp.gate.weight"])
        ffn.up.copy_(own["mlp.experts.gate_up_proj"].transpose(1, 2))
        ffn.down.copy_(own["mlp.experts.down_proj"].transpose(1, 2))
        return
    ffn.up.weight.copy_(torch.cat((own["mlp.gate_proj.weight"], own["mlp.up_proj.weight"])))
    ffn.down.weight.copy_(own["mlp.down_proj.weight"])
