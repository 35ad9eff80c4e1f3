"""The linear layer that pads its rows in training in half precision on a CPU."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from omni.layers.linear import ROWS, Linear


def gradients(layer: nn.Linear, x: torch.Tensor, *, autocast: torch.dtype | None) -> tuple[torch.Tensor, ...]:
    """The output of a layer for `x`, and the gradients of input, weight and bias."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        output = layer(x)
    assert layer.bias is not None
    output.backward(torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output))
    found = (x.grad, layer.weight.grad, layer.bias.grad)
    return output.detach(), *(grad for grad in found if grad is not None)


@pytest.fixture
def pair() -> tuple[Linear, nn.Linear]:
    torch.manual_seed(0)
    layer = Linear(32, 48)
    plain = nn.Linear(32, 48)
    plain.load_state_dict(layer.state_dict())
    return layer, plain


@pytest.fixture
def products(monkeypatch) -> list[int]:
    """Numbers of rows that are multiplied."""
    rows: list[int] = []

    def linear(x, weight, bias=None, original=F.linear):
        rows.append(x.numel() // x.shape[-1])
        return original(x, weight, bias)

    monkeypatch.setattr(F, "linear", linear)
    return rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 61, 32), (2 * ROWS, 32), (4, 30, 32)])
def test_outputs_and_gradients_are_those_of_a_plain_layer(pair, products, shape, dtype):
    x = torch.randn(shape, dtype=dtype)
    found, expected = (gradients(layer, x, autocast=torch.bfloat16) for layer in pair)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=0.01, atol=0.01)
    rows = x.numel() // 32
    assert products[0] == (-(-rows // ROWS) * ROWS if rows >= ROWS else rows)


def test_weights_in_half_precision_have_padded_rows_without_autocast(pair, products):
    layer, plain = (copy.deepcopy(one).bfloat16() for one in pair)
    x = torch.randn(3, 100, 32, dtype=torch.bfloat16)
    found, expected = (gradients(one, x, autocast=None) for one in (layer, plain))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.01, atol=0.01)
    assert products[0] == 3 * ROWS


@pytest.mark.parametrize("reason", ["fp32", "inference"])
def test_nothing_is_padded(pair, products, reason):
    layer, plain = pair
    x = torch.randn(3, 100, 32)
    halved = torch.autocast("cpu", dtype=torch.bfloat16, enabled=reason == "inference")
    with halved, torch.set_grad_enabled(reason == "fp32"):
        assert torch.equal(layer(x), plain(x))
    assert products[0] == 300


def test_other_devices_pad_nothing(products):
    layer = Linear(32, 48, device="meta", dtype=torch.bfloat16)
    assert layer(torch.empty(3, 100, 32, device="meta", dtype=torch.bfloat16)).shape == (3, 100, 48)
    assert products == [300]


def test_all_numbers_of_rows_share_a_compiled_graph(pair):
    layer, plain = pair
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(layer, backend=backend, dynamic=True, fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for count in (150, 151, 2 * ROWS, 300):
            x = torch.randn(count, 32)
            torch.testing.assert_close(compiled(x), plain(x), rtol=0.01, atol=0.01)
    assert len(graphs) == 1
