"""The residual quantizer: codebooks reduce the error, dead codes are revived, and ranks agree."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from omni.layers.quantizer import ResidualQuantizer

VARIANTS = [{"codebook_dim": 8}, {"codebook_dim": 6}]


def clusters(*shape: int, dim: int = 8, seed: int = 0) -> Tensor:
    """Vectors around twenty centres."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(20, dim, generator=torch.Generator().manual_seed(7))
    chosen = torch.randint(20, shape, generator=generator)
    return centres[chosen] + 0.1 * torch.randn(*shape, dim, generator=generator)


def unprojected(**options: float) -> ResidualQuantizer:
    """A quantizer of 8-dimensional vectors without projections."""
    quantizer = ResidualQuantizer(8, codebook_dim=8, **options)
    quantizer.project_in = quantizer.project_out = nn.Identity()
    return quantizer


@pytest.fixture(params=VARIANTS, ids=str)
def make(request: pytest.FixtureRequest) -> Callable[..., ResidualQuantizer]:
    def quantizer(**options: float) -> ResidualQuantizer:
        torch.manual_seed(0)
        return ResidualQuantizer(8, **{"num_codebooks": 3, "codebook_size": 16} | request.param | options)

    return quantizer


def test_every_codebook_reduces_the_error(make):
    quantizer = make()
    for seed in range(20):
        quantizer(clusters(8, 32, seed=seed))
    energies = quantizer.eval()(clusters(8, 32, seed=99)).energies
    assert (energies[1:] < 0.9 * energies[:-1]).all()


def test_codes_decode_to_the_quantized_vectors(make):
    quantizer = make()
    quantizer(clusters(4, 32))
    quantizer.eval()
    x = clusters(2, 10, seed=3)
    quantized = quantizer(x)
    assert torch.equal(quantizer.encode(x), quantized.codes)
    torch.testing.assert_close(quantizer.decode(quantized.codes), quantized.output)


def test_fewer_codebooks_decode_and_more_are_better(make):
    quantizer = make(dropout=0.5)
    for seed in range(20):
        quantizer(clusters(8, 32, seed=seed))
    quantizer.eval()
    x = clusters(8, 32, seed=99)
    codes = quantizer.encode(x)
    z = quantizer.project_in(x)
    errors = []
    for levels in (1, 2, 3):
        entries = torch.stack([quantizer.codebooks[i][codes[..., i]] for i in range(levels)]).sum(0)
        assert quantizer.decode(codes[..., :levels]).shape == x.shape
        errors.append((z - entries).square().mean().item())
    assert errors[0] > errors[1] > errors[2]


def test_dropout_skips_codebooks_of_some_rows_in_training_only():
    torch.manual_seed(0)
    quantizer = unprojected(num_codebooks=3, codebook_size=16, dropout=0.9)
    x = clusters(64, 4)
    output = quantizer(x).output
    chosen = quantizer._search(x)[1]  # with the codebooks after this batch
    kept = torch.stack([(output - chosen[:levels].sum(0)).square().sum((1, 2)) for levels in (1, 2, 3)]).argmin(0)
    assert set(kept.tolist()) == {0, 1, 2}
    quantizer.eval()
    assert torch.equal(quantizer(x).output, quantizer._search(x)[1].sum(0))


def test_padding_does_not_update_codebooks(make):
    states = []
    for filling in (0.0, 1e3):
        quantizer = make(dropout=0.3)
        for seed in range(5):
            torch.manual_seed(seed)
            x = clusters(4, 32, seed=seed)
            mask = torch.arange(32) < torch.tensor([32, 20, 7, 1])[:, None]
            quantized = quantizer(torch.where(mask[..., None], x, filling), mask)
            assert not quantized.codes[~mask].any()
            assert not quantized.commitment[~mask].any()
        states.append((quantizer.state_dict(), quantized.energies))
    assert all(torch.equal(states[0][0][name], states[1][0][name]) for name in states[0][0])
    assert torch.equal(states[0][1], states[1][1])


def test_dead_codes_revive():
    torch.manual_seed(0)
    quantizer = unprojected(num_codebooks=2, codebook_size=16)
    for seed in range(10):
        quantizer(clusters(8, 32, seed=seed))
    revived = int(quantizer.revived)
    with torch.no_grad():  # moves half of the entries away from all vectors
        quantizer.codebooks[0, :8] += 1e3
        quantizer.sums[0, :8] = quantizer.codebooks[0, :8] * quantizer.counts[0, :8, None]
    for seed in range(10, 300):
        quantizer(clusters(8, 32, seed=seed))
    assert quantizer.revived >= revived + 8
    assert quantizer.codebooks.abs().max() < 100
    counts = torch.bincount(quantizer.eval().encode(clusters(32, 32, seed=999))[..., 0].flatten(), minlength=16)
    assert (counts > 0).all()
    assert quantizer.usage["dead_codes"] == 0


def test_the_threshold_of_dead_codes_scales_with_the_batch():
    """With four times the vectors an entry needs four times the uses, so the same entries survive."""
    torch.manual_seed(0)
    quantizer = unprojected(num_codebooks=1, codebook_size=16)
    quantizer(clusters(8, 32))
    before = quantizer._dead()
    quantizer.counts *= 4
    assert torch.equal(quantizer._dead(), before)


def test_gradients_equal_those_of_the_surrogate_with_fixed_codes(make):
    """With fixed codes, the output is the input plus a constant, and the commitment a distance to a constant."""
    quantizer = make(decay=0.0)
    quantizer(clusters(4, 32))
    x = clusters(1, 5, seed=5).requires_grad_()
    weight = torch.randn(8)
    z = quantizer.project_in(x)
    chosen = quantizer._search(z)[1].sum(0)  # before the codebooks change
    quantized = quantizer(x)
    (quantized.output @ weight).sum().add(quantized.commitment.sum()).backward()

    def surrogate(x: Tensor) -> Tensor:
        now = quantizer.project_in(x)
        output = quantizer.project_out(now + (chosen - z).detach())
        return (output @ weight).sum() + (now - chosen.detach()).square().mean(-1).sum()

    step = 0.1  # the surrogate is quadratic, so finite differences are exact
    for index in ((0, 0, 0), (0, 2, 3), (0, 4, 7)):
        shift = torch.zeros_like(x)
        shift[index] = step
        with torch.no_grad():
            difference = (surrogate(x + shift) - surrogate(x - shift)) / (2 * step)
        assert x.grad is not None
        assert x.grad[index].item() == pytest.approx(difference.item(), rel=1e-3, abs=1e-4)


def test_evaluation_changes_nothing_and_the_state_is_complete(make):
    one, other = make(), make()
    one(clusters(4, 32))
    before = {name: value.clone() for name, value in one.state_dict().items()}
    one.eval()(clusters(4, 32, seed=1))
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())
    other.load_state_dict(one.state_dict())
    for quantizer in (one.train(), other.train()):  # the other one must not be initialised by k-means
        torch.manual_seed(3)
        quantizer(clusters(4, 32, seed=2))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_it_starts_with_fewer_vectors_than_entries():
    quantizer = unprojected(num_codebooks=2, codebook_size=64)
    for seed in range(3):
        quantized = quantizer(clusters(1, 3, seed=seed))
    assert all(torch.isfinite(value).all() for value in (*quantizer.state_dict().values(), *quantized[::2]))


@pytest.mark.parametrize("options", [{"codebook_size": 1}, {"num_codebooks": 0}, {"decay": 1.0}, {"dropout": -0.1}])
def test_impossible_arguments_are_refused(options):
    with pytest.raises(ValueError, match=r"\d"):
        ResidualQuantizer(8, **options)


def learn(rank: int, folder: str) -> None:
    """One of two ranks, which differ in vectors, random numbers and padding."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    quantizer = unprojected(num_codebooks=2, codebook_size=32, revive_below=0.3, dropout=0.5)
    torch.manual_seed(rank + 1)
    for step in range(6):
        mask = torch.arange(24) < torch.tensor([24, 20 - 9 * rank, 5])[:, None]
        quantizer(clusters(3, 24, seed=10 * step + rank), mask)
    torch.save(quantizer.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_hold_the_same_codebooks(tmp_path: Path):
    mp.start_processes(learn, (str(tmp_path),), nprocs=2, start_method="forkserver")
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one["revived"] > 0


def test_two_ranks_equal_one_with_both_batches(monkeypatch):
    """The moving averages of two ranks are those of all vectors together."""
    import omni.layers.quantizer as module

    torch.manual_seed(0)
    quantizer = unprojected(num_codebooks=2, codebook_size=16, revive_below=0.0)
    first = clusters(4, 32)
    quantizer(first)
    start = {name: value.clone() for name, value in quantizer.state_dict().items()}
    halves = clusters(4, 32, seed=1).split(2)
    seen: list[tuple[Tensor, ...]] = []
    monkeypatch.setattr(module, "_over_ranks", lambda *tensors: seen.append(tensors) or tensors)
    for half in halves:
        quantizer.load_state_dict(start)
        quantizer(half)
    both = iter([tuple(a + b for a, b in zip(*seen, strict=True))])
    monkeypatch.setattr(module, "_over_ranks", lambda *_: next(both))
    quantizer.load_state_dict(start)
    quantizer(halves[0])
    apart = {name: value.clone() for name, value in quantizer.state_dict().items()}
    monkeypatch.undo()
    quantizer.load_state_dict(start)
    quantizer(torch.cat(halves))
    for name in ("counts", "sums", "codebooks"):
        torch.testing.assert_close(quantizer.state_dict()[name], apart[name])
