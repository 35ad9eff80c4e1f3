"""Attention weights of a model, recorded while it runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from omni.errors import UserError
from omni.layers.attention import Attention


@contextmanager
def record_attention(module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Records the attention weights of a module's `Attention` layers in the forward passes within the block.

    Example:
        with record_attention(thinker) as weights:
            thinker(tokens)
        first, *_, last = weights.values()

    Args:
        module: A model in eval mode, which must run without a KV cache.

    Yields:
        By name of the layer within the module, (batch, heads, queries, keys) of the last forward pass, on its device.

    Raises:
        UserError: If the module has no such layer, as a pretrained model of another library.
    """
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, Attention)}
    if not layers:
        raise UserError(f"{type(module).__name__} has no attention layers of omni: their weights cannot be recorded")
    weights: dict[str, Tensor] = {}

    def recorder(name: str) -> Any:
        def record(layer: Attention, args: tuple[Tensor, Any], options: dict[str, Any]) -> None:
            if options.get("cache") is not None:
                raise ValueError("attention weights are recorded without a KV cache only")
            weights[name] = layer.weights(*args, mask=options.get("mask"))

        return record

    hooks = [layer.register_forward_pre_hook(recorder(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        yield weights
    finally:
        for hook in hooks:
            hook.remove()
