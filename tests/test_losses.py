"""The chunked cross-entropy equals the plain one and holds one chunk at a time; metrics do not depend on batches."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from omni import losses
from omni.batch import IGNORE
from omni.losses import Loss, linear_cross_entropy, token_nll
from omni.metrics import MeanOfItems, TokenLoss
from omni.text.tokenizer import BOS, EOS, ByteTokenizer

VOCAB, DIM = 37, 16
CHUNKS = [1, 5, 24, 1000]  # positions, out of 24


@pytest.fixture(params=CHUNKS)
def chunk(request, monkeypatch):
    """Number of positions in a chunk."""
    monkeypatch.setattr(losses, "CHUNK_BYTES", request.param * VOCAB * 4)
    return request.param


def problem(dtype=torch.float32):
    """Hidden states (2, 12, dim), weights, and targets, a third of them not scored."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 12, DIM, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCAB, DIM, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(VOCAB, (2, 12), generator=generator)
    targets[torch.rand(2, 12, generator=generator) < 0.3] = IGNORE
    assert 0 < (targets == IGNORE).sum() < 24
    return hidden, weight, targets


def plain(hidden, weight, targets, reduction="sum"):
    """The cross-entropy of all logits at once, in double precision."""
    logits = hidden.double() @ weight.double().T
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORE, reduction=reduction)


def close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual.double(), expected.double(), rtol=tolerance, atol=tolerance)


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple | list) else (output,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return output


# ---------------------------------------------------------------- cross-entropy


def test_value_and_gradients_equal_the_plain_loss(chunk):
    hidden, weight, targets = problem()
    loss, expected = linear_cross_entropy(hidden, weight, targets), plain(*problem())
    assert loss.dtype == torch.float32
    close(loss, expected)
    gradients = torch.autograd.grad(2.5 * loss, (hidden, weight))
    reference = problem()[:2]
    for actual, wanted in zip(gradients, torch.autograd.grad(2.5 * plain(*reference, targets), reference), strict=True):
        close(actual, wanted)


def test_the_gradient_equals_finite_differences(monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_BYTES", 2 * 5 * 4)  # two positions, five tokens
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 4, generator=generator, dtype=torch.double).requires_grad_()
    weight = torch.randn(5, 4, generator=generator, dtype=torch.double).requires_grad_()
    targets = torch.tensor([4, IGNORE, 0])
    # Logits are fp32 for any input, so the step and the tolerance must be large.
    assert torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, targets).double(),
        (hidden, weight),
        eps=1e-2,
        atol=1e-3,
        rtol=1e-3,
    )


def test_one_of_the_two_gradients_alone_can_be_computed(chunk):
    for frozen in (0, 1):
        inputs = problem()
        inputs[frozen].requires_grad_(False)
        linear_cross_entropy(*inputs).backward()
        expected = problem()
        plain(*expected).backward()
        assert inputs[frozen].grad is None
        close(inputs[1 - frozen].grad, expected[1 - frozen].grad)


def test_autocast_stays_close_and_returns_fp32(chunk):
    inputs, expected = problem(), problem()
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(*inputs)
        nll = token_nll(*inputs)
    assert loss.dtype == nll.dtype == torch.float32
    loss.backward()
    wanted = plain(*expected)
    wanted.backward()
    close(loss, wanted, 1e-2)
    close(nll.sum(), wanted, 1e-2)
    for actual, reference in zip(inputs[:2], expected[:2], strict=True):
        assert actual.grad.dtype == torch.float32
        assert (actual.grad - reference.grad).norm() < 0.02 * reference.grad.norm()


def test_under_autocast_the_weight_gradient_does_not_lose_small_chunks(monkeypatch):
    errors = []
    for positions in (1, 24):
        monkeypatch.setattr(losses, "CHUNK_BYTES", positions * VOCAB * 4)
        inputs, expected = problem(), problem()
        with torch.autocast("cpu", torch.bfloat16):
            linear_cross_entropy(*inputs).backward()
        plain(*expected).backward()
        errors.append((inputs[1].grad - expected[1].grad).norm().item())
    assert errors[0] < 1.5 * errors[1]


def test_all_ignored_is_zero_with_zero_gradients(chunk):
    hidden, weight, targets = problem()
    ignored = torch.full_like(targets, IGNORE)
    loss = linear_cross_entropy(hidden, weight, ignored)
    loss.backward()
    assert loss == 0
    assert not hidden.grad.any()
    assert not weight.grad.any()
    assert not token_nll(hidden, weight, ignored).any()


def test_each_position_has_its_loss_and_they_sum_to_the_whole(chunk):
    hidden, weight, targets = problem()
    nll = token_nll(hidden, weight, targets)
    assert nll.shape == targets.shape
    assert not nll.requires_grad
    assert not nll[targets == IGNORE].any()
    close(nll.flatten(), plain(hidden, weight, targets, reduction="none"))
    close(nll.sum(), linear_cross_entropy(hidden, weight, targets))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_multiply_losses_and_gradients(chunk, precision):
    hidden, weight, targets = problem()
    weights = torch.rand(targets.shape, generator=torch.Generator().manual_seed(3))
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        loss = linear_cross_entropy(hidden, weight, targets, weights)
    reference = problem()[:2]
    expected = (plain(*reference, targets, reduction="none") * weights.flatten().double()).sum()
    tolerance = 1e-5 if precision == torch.float32 else 0.02
    close(loss, expected, tolerance)
    pairs = zip(torch.autograd.grad(loss, (hidden, weight)), torch.autograd.grad(expected, reference), strict=True)
    for found, wanted in pairs:
        assert (found - wanted).norm() < tolerance * wanted.norm()
    with torch.no_grad():
        close(linear_cross_entropy(hidden, weight, targets, weights), expected)


def test_large_logits_stay_finite(chunk):
    hidden, weight, targets = problem()
    inputs = [(300 * hidden).detach().requires_grad_(), weight]
    loss = linear_cross_entropy(*inputs, targets)
    loss.backward()
    close(loss, plain(*inputs, targets), 1e-4)
    assert all(x.grad.isfinite().all() for x in inputs)


@pytest.mark.parametrize("positions", [1, 3])
def test_no_tensor_is_larger_than_a_chunk_of_logits(positions, monkeypatch):
    vocab, dim, count = 500, 2, 40
    hidden = torch.randn(count, dim, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.randn(vocab, dim, generator=torch.Generator().manual_seed(1)).requires_grad_()
    targets = torch.arange(count)
    monkeypatch.setattr(losses, "CHUNK_BYTES", 4 * positions * vocab)
    allowed = max(positions * vocab, weight.numel())
    for compute in (
        lambda: linear_cross_entropy(hidden, weight, targets).backward(),
        lambda: token_nll(hidden, weight, targets),
    ):
        with Largest() as seen:
            compute()
        assert positions * vocab <= seen.numel <= allowed
    with Largest() as seen:
        plain(hidden, weight, targets).backward()
    assert seen.numel >= count * vocab  # held by the plain loss


def test_the_mean_is_over_scored_positions():
    assert Loss(torch.tensor(6.0), torch.tensor(4), {}).mean == 1.5
    assert Loss(torch.tensor(0.0), torch.tensor(0), {}).mean == 0


# ---------------------------------------------------------------- metrics


def measured(text):
    """Losses, masks of scored positions and byte counts, for a model with a byte tokenizer."""
    tokenizer = ByteTokenizer()
    targets = torch.tensor([*tokenizer.encode(text), EOS, IGNORE, BOS, *tokenizer.encode("é"), IGNORE])
    scored = targets != IGNORE
    nll = torch.rand(len(targets), generator=torch.Generator().manual_seed(0)) * 5 * scored
    return nll, scored, torch.tensor(tokenizer.token_bytes())[targets.clamp(min=0)] * scored


def metric_of(*batches):
    metric = TokenLoss()
    for batch in batches:
        metric.update(*batch)
    return metric.compute()


def test_the_metric_equals_the_direct_computation():
    text = "Ein schöner Satz.\n日本"
    nll, scored, num_bytes = measured(text)
    values = metric_of((nll, scored, num_bytes))
    loss = nll.double().sum() / scored.sum()
    close(values["loss"], loss)
    close(values["perplexity"], loss.exp())
    size = len((text + "é").encode())  # special tokens are scored but are no text
    close(values["bits_per_byte"], nll.double().sum() / math.log(2) / size)
    assert scored.sum() == size + 2


@pytest.mark.parametrize("sizes", [(1, 25), (13, 13), (20, 1, 5), (1,) * 26])
def test_the_metric_does_not_depend_on_the_batches(sizes):
    data = measured("x" * 20)
    assert len(data[0]) == 26
    whole, split = metric_of(data), metric_of(*zip(*(values.split(sizes) for values in data), strict=True))
    assert whole.keys() == split.keys() == {"loss", "perplexity", "bits_per_byte"}
    for name in whole:
        close(split[name], whole[name], 1e-6)


def test_a_uniform_guess_costs_the_bits_of_the_vocabulary():
    nll = torch.full((2, 5), math.log(256))
    values = metric_of((nll, torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 5, dtype=torch.long)))
    close(values["bits_per_byte"], torch.tensor(8.0))
    close(values["perplexity"], torch.tensor(256.0))


def test_many_small_losses_are_summed_precisely():
    metric = TokenLoss()
    one = torch.ones(1, dtype=torch.long)
    metric.update(torch.tensor([2.0**25]), one.bool(), one)
    for _ in range(4):
        metric.update(torch.tensor([1.0]), one.bool(), one)
    assert metric.total.sum() == 2**25 + 4


def test_small_batches_are_not_rounded_away_after_many_large_ones():
    mean, tokens = MeanOfItems(), TokenLoss()
    large = torch.full((1000,), 33_554.432)  # the sum is 2 ** 25, where float32 holds multiples of 4 only
    mean.update(large.sum(), torch.tensor(1000))
    tokens.update(large, torch.ones(1000, dtype=torch.bool), torch.ones(1000, dtype=torch.long))
    for _ in range(20_000):
        mean.update(torch.tensor(0.75), torch.tensor(1))
    assert mean.compute().item() == pytest.approx((2**25 + 15_000) / 21_000, rel=1e-6)
    assert tokens.compute()["loss"].item() == pytest.approx(33_554.432, rel=1e-6)


# ---------------------------------------------------------------- fp16


class FakeScaler:
    """Scales a loss and unscales its gradients, like `torch.amp.GradScaler`."""

    def __init__(self, scale):
        self.scale = scale

    def gradients(self, loss, parameters):
        return [gradient.float() / self.scale for gradient in torch.autograd.grad(loss * self.scale, parameters)]


@pytest.mark.parametrize("share", [1, 1024])  # the loss is divided by it, as by `stage.UNIT`
def test_scaled_gradients_below_the_smallest_fp16_number_survive(share):
    """Gradients of well-predicted tokens are 1e-7, which is zero or has one digit in fp16."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.eye(8)[None]
    weight = 16.0 * torch.eye(8) + torch.randint(-8, 8, (8, 8), generator=generator) / 64  # exact in fp16
    targets = torch.arange(8)[None]
    inputs, reference = ([hidden.clone().requires_grad_(), weight.clone().requires_grad_()] for _ in range(2))
    expected = torch.autograd.grad(plain(*reference, targets), reference)
    assert 1e-8 < expected[1].abs().min() < 2e-7 < expected[1].abs().max() < 5e-6
    with torch.autocast("cpu", torch.float16):
        loss = linear_cross_entropy(*inputs, targets) / share
    found = FakeScaler(2.0**24).gradients(loss, inputs)
    others = ~torch.eye(8, dtype=torch.bool)  # 1 - p of the target is already rounded in fp32
    for gradient, wanted in zip(found, expected, strict=True):
        pair = [each.view(8, 8)[others].float() for each in (gradient * share, wanted)]
        torch.testing.assert_close(*pair, rtol=0.01, atol=1e-9)


# ---------------------------------------------------------------- consistency


def test_consistency_is_the_divergence_in_both_directions_with_constant_targets():
    generator = torch.Generator().manual_seed(0)
    one, two = (torch.randn(2, 3, 5, generator=generator, dtype=torch.double).requires_grad_() for _ in range(2))
    mask = torch.tensor([[True, True, True], [True, False, False]])
    log_probs = one.log_softmax(-1), two.log_softmax(-1)
    loss = losses.consistency_loss(*log_probs, mask)
    p, q = (probs.exp().detach() for probs in log_probs)
    close(loss, (((p - q) * (p.log() - q.log())).sum(-1) * mask).sum())  # Jeffreys' divergence
    for gradient, own, other in zip(torch.autograd.grad(loss, (one, two)), (p, q), (q, p), strict=True):
        close(gradient, ((own - other) * mask[..., None]).double())  # of the cross-entropy with a constant target
    assert losses.consistency_loss(log_probs[0], log_probs[0], mask) == 0
