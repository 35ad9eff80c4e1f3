"""Attention weights: those that the layers use, and nothing is left behind by recording them."""

import pytest
import torch
from einops import rearrange

from omni.errors import UserError
from omni.layers.attention_weights import record_attention
from omni.layers.transformer import Transformer

X = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0))
MASK = torch.arange(7) < torch.tensor([[7], [4]])


def make(**options: object) -> Transformer:
    torch.manual_seed(1)
    return Transformer(**{"dim": 32, "num_layers": 2, "num_heads": 4, "ffn_dim": 48, **options}).eval()  # pyright: ignore


@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize(("causal", "mask"), [(True, None), (False, None), (False, MASK), (True, MASK)])
def test_they_times_the_values_are_what_a_layer_outputs(causal, mask, heads):
    model = make(causal=causal, num_kv_heads=heads)
    outputs, inputs = {}, {}
    for name, layer in (("blocks.0.attention", 0), ("blocks.1.attention", 1)):
        attention = model.blocks[layer].get_submodule("attention")
        attention.register_forward_hook(
            lambda module, args, output, name=name: (inputs.update({name: args}), outputs.update({name: output}))[0]
        )
    with torch.no_grad(), record_attention(model) as weights:
        model(X, mask=mask)
    assert list(weights) == list(outputs)
    for name, recorded in weights.items():
        attention = model.get_submodule(name)
        _, _, values = attention._project(*inputs[name])
        values = values.repeat_interleave(4 // heads, dim=1)
        expected = attention.out(rearrange(recorded @ values, "b h t d -> b t (h d)"))
        torch.testing.assert_close(outputs[name], expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(recorded.sum(-1), torch.ones(2, 4, 7))
        assert (not recorded.triu(1).any()) == causal
        assert recorded[1, :, :4, 4:].any() != (causal or mask is not None)  # padding


def test_nothing_is_left_behind():
    model = make()
    with record_attention(model) as weights:
        model(X)
    kept = dict(weights)
    model(2 * X)
    assert all(weights[name] is kept[name] for name in kept)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_cache_is_refused():
    model = make()
    with record_attention(model), pytest.raises(ValueError, match="without a KV cache only"):
        model(X, cache=model.new_cache(2, 8))


def test_a_model_of_another_library_is_refused():
    other = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match="Linear has no attention layers of omni"), record_attention(other):
        pass
