"""Layers of the Transformer: which positions they depend on, and that they equal their formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from omni.layers.attention import Attention
from omni.layers.conv import ConvModule
from omni.layers.feedforward import FeedForward, activate
from omni.layers.moe import MixtureOfExperts
from omni.layers.norm import QKNorm, RMSNorm
from omni.layers.rotary import RotaryEmbedding, rotate
from omni.layers.transformer import Transformer

TOY = {"dim": 32, "num_layers": 2, "num_heads": 4, "ffn_dim": 48}
KINDS = {
    "dense": {},
    "gqa": {"num_kv_heads": 2},
    "moe": {"num_experts": 4},
    "axes": {"rope_axes": 3},
    "gelu": {"activation": "gelu"},
    "conv": {"conv_kernel": 3},
}
ACTIVATIONS = ["swiglu", "gelu"]

kinds = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unlike(module, seed=0):
    """The module in eval mode with random scales of norms, so that a missing scale is noticed."""
    torch.manual_seed(seed)
    for child in module.modules():
        if isinstance(child, RMSNorm):
            nn.init.uniform_(child.weight, 0.5, 1.5)
    return module.eval()


def transformer(**options):
    torch.manual_seed(0)
    return unlike(Transformer(**{**TOY, **options}))


def close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def changed(first, second):
    """Which positions of (batch, time, dim) differ in any row."""
    return ((first - second).abs() > 1e-5).flatten(2).any(-1).any(0).tolist()


# ---------------------------------------------------------------- dependencies of positions


@kinds
@pytest.mark.parametrize("position", [0, 3, 6])
@torch.no_grad()
def test_a_causal_position_changes_itself_and_later_ones_only(options, position):
    model, x = transformer(**options), noise(2, 7, 32)
    other = x.clone()
    other[:, position] = noise(2, 32, seed=2)
    assert changed(model(x).hidden, model(other).hidden) == [False] * position + [True] * (7 - position)


@kinds
@torch.no_grad()
def test_a_bidirectional_position_changes_all(options):
    model, x = transformer(causal=False, **options), noise(2, 7, 32)
    other = x.clone()
    other[:, 5] = noise(2, 32, seed=2)
    assert all(changed(model(x).hidden, model(other).hidden))


@kinds
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padded_equals_unpadded_under_a_mask(options, causal, side):
    model, lengths, time = transformer(causal=causal, **options), (5, 9, 2), 9
    padded, mask = 50 * noise(3, time, 32), torch.zeros(3, time, dtype=torch.bool)
    for row, length in enumerate(lengths):
        mask[row, slice(length) if side == "right" else slice(time - length, time)] = True
    rows = [noise(length, 32, seed=length) for length in lengths]
    padded[mask] = torch.cat(rows)
    hidden = model(padded, mask=mask).hidden
    assert hidden.isfinite().all()
    for row, (alone, valid) in enumerate(zip(rows, mask, strict=True)):
        close(hidden[row, valid], model(alone[None]).hidden[0])


@kinds
@torch.no_grad()
def test_padding_at_the_end_needs_no_mask_where_causal(options):
    model, x = transformer(**options), noise(2, 5, 32)
    padded = torch.cat((x, 50 * noise(2, 4, 32, seed=2)), dim=1)
    close(model(padded).hidden[:, :5], model(x).hidden)


@kinds
@pytest.mark.parametrize("causal", [True, False])
@torch.no_grad()
def test_a_batch_equals_its_rows(options, causal):
    model, x = transformer(causal=causal, **options), noise(3, 6, 32)
    close(model(x).hidden, torch.cat([model(row[None]).hidden for row in x]))


@pytest.mark.parametrize(("causal", "reach"), [(True, range(4, 9)), (False, range(2, 7))])
@torch.no_grad()
def test_the_convolution_reaches_as_far_as_its_kernel(causal, reach):
    torch.manual_seed(0)
    conv, x = unlike(ConvModule(8, kernel_size=5, causal=causal)), noise(1, 12, 8)
    other = x.clone()
    other[:, 4] += 1
    assert [t for t, differs in enumerate(changed(conv(x), conv(other))) if differs] == list(reach)


@torch.no_grad()
def test_no_mask_is_made_if_causality_or_no_mask_is_enough(monkeypatch):
    calls, attend = [], F.scaled_dot_product_attention

    def spy(*args, attn_mask=None, is_causal=False, **kwargs):
        calls.append((attn_mask is not None, is_causal))
        return attend(*args, attn_mask=attn_mask, is_causal=is_causal, **kwargs)

    def seen(model, x, **kwargs):
        calls.clear()
        model(x, **kwargs)
        assert len(calls) == 2
        return calls[0] if calls[0] == calls[1] else calls

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    model, x = transformer(), noise(2, 5, 32)
    assert seen(model, x) == (False, True)
    assert seen(transformer(causal=False), x) == (False, False)
    assert seen(model, x, mask=torch.ones(2, 5, dtype=torch.bool)) == (True, False)
    cache = model.new_cache(2, 12)
    assert seen(model, x, cache=cache) == (False, True)  # a prompt
    cache.advance(5)
    assert seen(model, x[:, :1], cache=cache) == (False, False)  # one token after rows of equal length
    assert seen(model, x, cache=cache) == (True, False)
    cache.advance([1, 3])
    assert seen(model, x[:, :1], cache=cache) == (True, False)


# ---------------------------------------------------------------- attention


def naive_attention(attention, x, theta=10_000.0):
    """Attention with all heads of keys and values written out, and rotation by complex numbers."""
    heads, kv_heads, size = attention.num_heads, attention.num_kv_heads, attention.head_dim
    projected = (x @ attention.qkv.weight.T).unflatten(-1, (heads + 2 * kv_heads, size))
    queries_keys, values = projected[:, :, : heads + kv_heads], projected[:, :, heads + kv_heads :]
    queries_keys = queries_keys / (queries_keys.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    queries_keys = queries_keys * attention.qk_norm.scale()
    frequencies = theta ** (-torch.arange(size // 2) * 2 / size)
    turns = torch.polar(torch.ones(()), torch.arange(x.shape[1])[:, None, None] * frequencies)
    turned = torch.complex(*queries_keys.chunk(2, dim=-1)) * turns
    queries_keys = torch.cat((turned.real, turned.imag), dim=-1)
    outputs = []
    for head in range(heads):
        kv_head = head // (heads // kv_heads)
        scores = queries_keys[:, :, head] @ queries_keys[:, :, heads + kv_head].mT / math.sqrt(size)
        if attention.causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        outputs.append(scores.softmax(-1) @ values[:, :, kv_head])
    return torch.cat(outputs, dim=-1) @ attention.out.weight.T


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
@torch.no_grad()
def test_attention_equals_the_formula_with_repeated_heads(num_kv_heads, causal, shared):
    torch.manual_seed(0)
    options = {"num_kv_heads": num_kv_heads, "causal": causal, "shared_qk_scales": shared}
    attention = unlike(Attention(32, num_heads=4, head_dim=8, **options))
    x = noise(2, 9, 32)
    close(attention(x, RotaryEmbedding(8)(torch.arange(9))), naive_attention(attention, x))


def test_fewer_heads_of_keys_and_values_are_fewer_parameters_and_a_smaller_cache():
    full, grouped = (Attention(32, num_heads=4, num_kv_heads=n, head_dim=8) for n in (4, 1))
    count = [sum(p.numel() for p in attention.parameters()) for attention in (full, grouped)]
    assert count[0] - count[1] == 2 * 3 * 8 * 32 + 3 * 8  # keys, values and the keys' norms of three heads
    assert transformer(num_kv_heads=1).new_cache(2, 5).keys.numel() * 4 == transformer().new_cache(2, 5).keys.numel()


def test_shared_scales_are_two_and_each_head_has_them():
    norm = unlike(QKNorm(4, 2, 8, shared=True))
    assert norm.weight.shape == (16,)
    for heads, weight in ((norm.scale()[:4], norm.weight[:8]), (norm.scale()[4:], norm.weight[8:])):
        assert all(torch.equal(head, weight) for head in heads)
    norm(noise(2, 3, 6, 8)).square().sum().backward()
    assert norm.weight.grad is not None
    assert norm.weight.grad.all()


def test_unshared_scales_are_those_that_were_shared():
    norm, x = unlike(QKNorm(4, 2, 8, shared=True)), noise(2, 3, 6, 8)
    before = norm(x)
    norm.requires_grad_(False).unshare()
    assert norm.weight.shape == (48,)
    assert not norm.weight.requires_grad
    assert torch.equal(norm(x), before)


@torch.no_grad()
def test_qk_norm_makes_the_scale_of_queries_and_keys_irrelevant():
    torch.manual_seed(0)
    attention = unlike(Attention(32, num_heads=4, num_kv_heads=4, head_dim=8))
    x, angles = noise(2, 6, 32), RotaryEmbedding(8)(torch.arange(6))
    before = attention(x, angles)
    attention.qkv.weight[: 2 * 32] *= 100
    assert torch.allclose(attention(x, angles), before, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(8,), (3, 8)])
def test_rms_norm_is_its_formula_over_the_last_axis_and_keeps_the_type(shape, dtype):
    norm, x = unlike(RMSNorm(*shape)), 5 * noise(2, 4, *shape)
    expected = x / x.square().mean(-1, keepdim=True).sqrt() * norm.weight.view(shape)
    actual = norm(x.to(dtype))
    assert actual.dtype == dtype
    close(actual.float(), expected, 1e-5 if dtype == torch.float32 else 3e-2)


@pytest.mark.parametrize("norm", [RMSNorm(6), RMSNorm(3, 6), QKNorm(2, 1, 6, shared=True)])
def test_gradients_of_norms(norm):
    norm = unlike(norm).double()
    assert torch.autograd.gradcheck(norm, noise(2, 4, *norm.shape).double().requires_grad_())


def test_norms_learn_as_the_compiler_traces_them():
    """The compiler sees PyTorch's own operations, and what runs without it a gradient written by hand."""
    norm, x, grad = unlike(RMSNorm(8)), noise(2, 3, 8), noise(2, 3, 8, seed=3)
    torch._dynamo.reset()
    found = []
    for function in (norm, torch.compile(norm, backend="eager", fullgraph=True)):
        leaf = x.clone().requires_grad_()
        norm.zero_grad()
        function(leaf).backward(grad)
        found.append((function(leaf).detach(), leaf.grad, norm.weight.grad.clone()))
    for eager, compiled in zip(*found, strict=True):
        close(eager, compiled)


# ---------------------------------------------------------------- positions


def test_rotation_keeps_lengths_and_scores_depend_on_the_distance_only():
    rotary, query, key = RotaryEmbedding(16), noise(1, 1, 1, 16), noise(1, 1, 1, 16, seed=2)

    def score(query_position, key_position):
        turned = [
            rotate(x, *rotary(torch.tensor([position])))
            for x, position in ((query, query_position), (key, key_position))
        ]
        close(turned[0].norm(), query.norm())
        return (turned[0] * turned[1]).sum()

    for distance in (0, 1, 7):
        close(score(300 + distance, 300), score(distance, 0), 1e-4)
    assert (score(1, 0) - score(0, 0)).abs() > 1e-3
    assert (score(0, 1) - score(1, 0)).abs() > 1e-3  # the sign of the distance matters


@pytest.mark.parametrize("positions", [torch.arange(5), torch.tensor([[0, 3, 5, 5, 9], [2, 4, 4, 7, 8]])])
def test_rotation_equals_that_of_complex_numbers_and_so_does_its_gradient(positions):
    x, grad = noise(2, 5, 3, 8).requires_grad_(), noise(2, 5, 3, 8, seed=4)
    cosines, sines = RotaryEmbedding(8)(positions)
    turned = rotate(x, cosines, sines)
    turned.backward(grad)

    def complex_pairs(x):
        return torch.complex(x[..., :4], x[..., 4:])

    unit = torch.complex(cosines, sines)
    close(complex_pairs(turned.detach()), complex_pairs(x.detach()) * unit)
    assert x.grad is not None
    close(complex_pairs(x.grad), complex_pairs(grad) * unit.conj())
    traced = torch.compile(rotate, backend="eager", fullgraph=True)(x, cosines, sines)
    close(traced, turned)


@kinds
@torch.no_grad()
def test_shifting_all_positions_changes_nothing(options):
    model, x = transformer(**options), noise(2, 6, 32)
    close(model(x, positions=torch.arange(6) + 50).hidden, model(x).hidden, 1e-4)
    assert not torch.allclose(model(x, positions=torch.arange(6) * 2).hidden, model(x).hidden, atol=1e-3)


@pytest.mark.parametrize("num_axes", [2, 3])
@pytest.mark.parametrize("time", [1, 5, 8, 33])
@torch.no_grad()
def test_equal_axes_are_one_axis_exactly(num_axes, time):
    one, several, x = transformer(), transformer(rope_axes=num_axes), noise(2, time, 32)
    positions = torch.stack((torch.arange(time), torch.arange(time) * 3 + 11))
    axes = positions.expand(num_axes, 2, time)
    for angles, expected in zip(several.rotary(axes), one.rotary(positions), strict=True):
        assert torch.equal(angles, expected)
    assert torch.equal(several(x, positions=axes).hidden, one(x, positions=positions).hidden)
    assert torch.equal(several(x).hidden, one(x).hidden)


@pytest.mark.parametrize("axis", range(3))
@torch.no_grad()
def test_each_axis_turns_its_own_frequencies(axis):
    model, x = transformer(rope_axes=3), noise(1, 5, 32)
    positions = torch.arange(5).expand(3, 1, 5).clone()
    moved = positions.clone()
    moved[axis, :, 3] += 2
    differs = (model.rotary(moved)[1] != model.rotary(positions)[1])[0, :, 0]
    assert differs.nonzero().tolist() == [[3, i] for i in range(4) if i % 3 == axis]
    assert not torch.allclose(model(x, positions=moved).hidden, model(x, positions=positions).hidden, atol=1e-4)


def test_angles_stay_exact_in_a_model_of_low_precision():
    model = transformer().bfloat16()
    for angles, expected in zip(model.rotary(torch.arange(2000)), RotaryEmbedding(8)(torch.arange(2000)), strict=True):
        assert torch.equal(angles, expected)


# ---------------------------------------------------------------- feed-forward and experts


@pytest.mark.parametrize("activation", ACTIVATIONS)
@torch.no_grad()
def test_the_feed_forward_network_is_its_formula(activation):
    torch.manual_seed(0)
    ffn, x = FeedForward(8, 12, activation=activation), noise(2, 3, 8)
    up = x @ ffn.up.weight.T
    inner = {
        "swiglu": lambda: up[..., :12] * up[..., :12].sigmoid() * up[..., 12:],
        "gelu": lambda: up * 0.5 * (1 + torch.erf(up / math.sqrt(2))),
    }[activation]()
    close(ffn(x), inner @ ffn.down.weight.T)
    assert sum(p.numel() for p in ffn.parameters()) == (3 if activation == "swiglu" else 2) * 8 * 12


def experts(**options):
    torch.manual_seed(0)
    return MixtureOfExperts(16, 24, **{"num_experts": 4, **options})


def naive_experts(moe, x):
    """Output and balance loss, one token and one expert at a time."""
    outputs, used, likely = [], torch.zeros(moe.num_experts), torch.zeros(moe.num_experts)
    for token in x.flatten(0, 1):
        probabilities = (moe.router.weight @ token).softmax(0)
        chosen = sorted(range(moe.num_experts), key=lambda e: -probabilities[e].item())[: moe.experts_per_token]
        share = probabilities[chosen].sum()
        outputs.append(
            sum(probabilities[e] / share * (activate(token @ moe.up[e], moe.activation) @ moe.down[e]) for e in chosen)
        )
        used[chosen] += 1
        likely = likely + probabilities
    balance = moe.num_experts * (used / used.sum() * likely / len(outputs)).sum()
    return torch.stack(outputs).view_as(x), balance


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("experts_per_token", [1, 2, 4])
def test_experts_equal_a_loop_in_value_and_gradient(activation, experts_per_token):
    moe, direction = experts(activation=activation, experts_per_token=experts_per_token), noise(3, 5, 16, seed=2)
    results = []
    for compute in (moe, lambda x: naive_experts(moe, x)):
        x = noise(3, 5, 16).requires_grad_()
        output, balance = compute(x)
        gradients = torch.autograd.grad((output * direction).sum() + 3 * balance, [x, *moe.parameters()])
        results.append((output, balance, *gradients))
    for actual, expected in zip(*results, strict=True):
        close(actual, expected, 1e-4)


@torch.no_grad()
def test_the_output_of_a_token_does_not_depend_on_others():
    moe, x = experts(), noise(4, 6, 16)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(0))
    whole = moe(x)[0]
    close(moe(x[order])[0], whole[order])
    close(moe(x[2:3, 3:4])[0], whole[2:3, 3:4])


@pytest.mark.parametrize("experts_per_token", [1, 2])
@torch.no_grad()
def test_balance_is_one_for_even_use_and_larger_for_collapse(experts_per_token):
    moe = experts(experts_per_token=experts_per_token)
    moe.router.weight.copy_(torch.eye(4, 16) + 0.5 * torch.eye(4, 16).roll(1, 0))  # token i: expert i, then i + 1
    alike = 10 * torch.eye(4, 16).repeat(3, 1, 1)
    close(moe(alike)[1], torch.ones(()))
    collapsed = moe(alike[:, :1].expand(3, 4, 16))[1]
    assert collapsed > 1.5
    assert collapsed <= 4 / experts_per_token + 1e-5


@torch.no_grad()
def test_balance_ignores_padding():
    moe, x = experts(), noise(2, 8, 16)
    mask = torch.arange(8) < torch.tensor([[5], [8]])
    other = torch.where(mask[..., None], x, noise(16, seed=2))
    real = x[mask][None]
    close(moe(other, mask)[1], moe(real)[1])
    close(moe(x, mask)[1], moe(real)[1])
    assert (moe(other)[1] - moe(real)[1]).abs() > 1e-4
    model = transformer(num_experts=4)
    x = noise(2, 8, 32)
    padded = torch.where(mask[..., None], x, noise(32, seed=2))
    close(model(padded, mask=mask).balance_loss, model(x, mask=mask).balance_loss)


@torch.no_grad()
def test_the_transformer_returns_the_mean_balance_of_its_layers():
    model, seen = transformer(num_experts=4), []
    for block in model.blocks:
        block.ffn.register_forward_hook(lambda module, args, output: seen.append(output[1]))
    balance = model(noise(2, 8, 32)).balance_loss
    assert len(seen) == 2
    close(balance, torch.stack(seen).mean())
    assert transformer()(noise(2, 8, 32)).balance_loss == 0


@kinds
@torch.no_grad()
def test_autocast_stays_close_to_full_precision(options):
    model, x = transformer(**options), noise(2, 6, 32)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model(x).hidden
    if "num_experts" in options:  # a token between two experts may be routed differently
        assert hidden.float().sub(model(x).hidden).square().mean() < 0.05
    else:
        close(hidden.float(), model(x).hidden, 0.1)


# ---------------------------------------------------------------- training


@kinds
@torch.no_grad()
def test_dropout_drops_in_training_only(options):
    torch.manual_seed(0)
    dropping, plain, x = transformer(dropout=0.3, **options), transformer(**options), noise(2, 6, 32)
    plain.load_state_dict(dropping.state_dict())
    assert torch.equal(dropping(x).hidden, plain(x).hidden)
    dropping.train()
    first, second = dropping(x).hidden, dropping(x).hidden
    assert not torch.allclose(first, second, atol=1e-3)
    assert not torch.allclose(first, plain(x).hidden, atol=1e-3)


def test_dropout_reaches_the_attention_weights_in_training_only():
    attention = Attention(32, num_heads=4, num_kv_heads=4, head_dim=8, dropout=0.3)
    x, angles = noise(1, 6, 32), RotaryEmbedding(8)(torch.arange(6))
    torch.manual_seed(0)
    assert not torch.allclose(attention(x, angles), attention(x, angles), atol=1e-3)
    attention.eval()
    assert torch.equal(attention(x, angles), attention(x, angles))


@kinds
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_checkpointing_changes_neither_loss_nor_gradients(options, dropout):
    results, runs = [], []
    for checkpointing in (False, True):
        model = transformer(dropout=dropout, gradient_checkpointing=checkpointing, **options).train()
        count = []
        model.blocks[0].ffn.register_forward_pre_hook(lambda module, args, count=count: count.append(1))
        x = noise(2, 6, 32).requires_grad_()
        torch.manual_seed(3)
        hidden, balance = model(x)
        loss = (hidden * noise(2, 6, 32, seed=2)).sum() + balance
        loss.backward()
        results.append((loss, x.grad, *(p.grad for p in model.parameters())))
        runs.append(len(count))
    assert runs == [1, 2]  # recomputed in the backward pass
    for kept, recomputed in zip(*results, strict=True):
        assert torch.equal(kept, recomputed)


@kinds
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_hidden_states_of_some_positions_equal_those_of_all(options, gradient_checkpointing):
    model, x = transformer(gradient_checkpointing=gradient_checkpointing, **options), noise(2, 6, 32)
    scored = torch.tensor([1, 4, 5, 9])
    every, balance = model(x)
    some, same_balance = model(x, scored=scored)
    close(some, every.flatten(0, 1)[scored])
    assert torch.equal(balance, same_balance)
    grads = []
    for hidden in (some, every.flatten(0, 1)[scored]):
        model.zero_grad()
        hidden.square().sum().backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*grads, strict=True):
        close(one, other, 1e-4)


def test_the_last_feed_forward_network_computes_no_other_positions(monkeypatch):
    rows = []
    forward = FeedForward.forward
    monkeypatch.setattr(FeedForward, "forward", lambda self, x: rows.append(x.shape[:-1].numel()) or forward(self, x))
    transformer()(noise(2, 6, 32), scored=torch.tensor([1, 4, 5]))
    assert rows == [12, 3]


@pytest.mark.parametrize("num_layers", [1, 8])
@pytest.mark.parametrize("num_experts", [0, 3])
def test_residual_projections_are_initialised_smaller_with_depth(num_layers, num_experts):
    torch.manual_seed(0)
    model = Transformer(dim=64, num_layers=num_layers, num_heads=4, ffn_dim=96, num_experts=num_experts)
    for block in model.blocks:
        assert block.attention.qkv.weight.std().item() == pytest.approx(64**-0.5, rel=0.05)
        assert block.attention.out.weight.std().item() == pytest.approx((64 * 2 * num_layers) ** -0.5, rel=0.05)
        up, down = (w if num_experts else w.weight for w in (block.ffn.up, block.ffn.down))
        assert up.std().item() == pytest.approx(64**-0.5, rel=0.05)
        assert down.std().item() == pytest.approx((96 * 2 * num_layers) ** -0.5, rel=0.05)


@pytest.mark.parametrize(("dtype", "gradient_checkpointing"), [(torch.float32, True), (torch.bfloat16, False)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by the compiler itself
def test_experts_compile_in_every_precision(dtype, gradient_checkpointing):
    """Shapes of all operations, forward and backward; fp32 failed there once."""
    torch.compiler.reset()
    model, x = transformer(num_experts=4, gradient_checkpointing=gradient_checkpointing), noise(2, 5, 32)

    def gradients():
        model.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            output = model(x)
        (output.hidden.float().square().sum() + output.balance_loss).backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    eager = gradients()
    model.compile(backend="aot_eager", fullgraph=True)
    for compiled, expected in zip(gradients(), eager, strict=True):
        tolerance = 1e-5 if dtype == torch.float32 else 0.05 * expected.abs().max().item()
        torch.testing.assert_close(compiled, expected, rtol=1e-4, atol=tolerance)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_layers": 2**63}, "num_layers must be from 0 to 1000"),
        ({"head_dim": 7}, "even"),
        ({"num_heads": 5}, "num_heads"),
        ({"num_heads": 4, "num_kv_heads": 3}, "num_kv_heads"),
        ({"conv_kernel": 4}, "odd"),
        ({"num_experts": 2, "experts_per_token": 3}, "experts_per_token"),
        ({"num_experts": 2, "experts_per_token": 0}, "experts_per_token"),
        ({"num_experts": 2, "ffn_dim": 20}, "ffn_dim is 20: widths of experts must be multiples of 8"),
        ({"num_experts": 2, "dim": 36, "num_heads": 2}, "dim is 36: widths of experts"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Transformer(**{**TOY, **options})


@pytest.mark.parametrize("options", [{"causal": False}, {"conv_kernel": 3}, {"causal": False, "conv_kernel": 3}])
def test_layers_that_cannot_be_cached_refuse_a_cache(options):
    with pytest.raises(ValueError, match="cached"):
        transformer(**options).new_cache(1, 4)


def test_rows_of_a_cache_are_viewed_exchanged_and_copied():
    model, texts = transformer().eval(), [noise(1, length, 32) for length in (3, 5, 2)]
    pool = model.new_cache(4, 8)
    for row, text in enumerate(texts):
        one = pool.view(row, row + 1)
        model(text, cache=one)
        one.advance(text.shape[1])
    assert pool.lengths == [3, 5, 2, 0]
    pool.swap(2, 0)
    pool.copy(1, 3, 4)
    assert pool.lengths == [2, 5, 3, 4]
    new, contents = noise(3, 1, 32), [texts[2], texts[0], texts[1][:, :4]]
    pool.view(1, 2).keep(0)
    pool.swap(1, 3)
    pool.swap(1, 2)
    assert pool.lengths == [2, 3, 4, 0]
    running = pool.view(0, 3)
    cached = model(new, cache=running).hidden
    running.advance(1)
    assert pool.lengths == [3, 4, 5, 0]
    assert pool.slots(1)[:, 0].tolist() == pool.lengths
    for row, content in enumerate(contents):
        whole = model(torch.cat((content, new[row : row + 1]), dim=1)).hidden[:, -1:]
        assert torch.allclose(cached[row : row + 1], whole, atol=1e-5)


def test_a_cache_and_a_mask_together_are_refused():
    model = transformer()
    with pytest.raises(ValueError, match="mask"):
        model(noise(2, 3, 32), cache=model.new_cache(2, 4), mask=torch.ones(2, 3, dtype=torch.bool))


@pytest.mark.parametrize("num_axes", [1, 2])
def test_positions_with_other_axes_are_refused(num_axes):
    with pytest.raises(ValueError, match="axes"):
        transformer(rope_axes=num_axes)(noise(2, 3, 32), positions=torch.zeros(3, 2, 3))
