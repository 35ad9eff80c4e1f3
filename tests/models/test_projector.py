"""Projectors of every kind: RMS of outputs, lengths, independent rows, mixtures of experts."""

import json

import pytest
import torch
import torch.nn.functional as F
from toy_commands import CONFIGS
from toy_omni import PROJECTORS

from omni.checkpoints.recipe import build
from omni.layers.moe import MixtureOfExperts, router_losses
from omni.models.projector import Projector
from omni.training.configuration import Configuration

KINDS = list(PROJECTORS)


def projector(kind, **options):
    torch.manual_seed(0)
    hidden = {} if kind == "linear" else {"hidden_dim": 16}
    return PROJECTORS[kind](**{"in_dim": 24, "out_dim": 32, **hidden, **options})


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loudness", [0.01, 1.0, 50.0])
def test_every_kind_starts_with_the_rms_of_token_embeddings(kind, loudness):
    part = projector(kind, frame_stacking=2)
    part.calibrate(0.37)
    out = part(loudness * torch.randn(3, 50, 24)).tokens
    assert float(out.square().mean().sqrt()) == pytest.approx(0.37, abs=0.01)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frame_stacking", [1, 3])
def test_output_lengths_are_as_announced(kind, frame_stacking):
    part = projector(kind, frame_stacking=frame_stacking)
    for frames in range(1, 30):
        assert part(torch.randn(1, frames, 24)).tokens.shape == (1, part.num_tokens(frames), 32)
    assert torch.equal(part.num_tokens(torch.arange(1, 30)), torch.tensor([part.num_tokens(n) for n in range(1, 30)]))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_equals_single_rows(kind):
    part = projector(kind, frame_stacking=2).eval()
    features, lengths = torch.randn(3, 21, 24), torch.tensor([21, 8, 3])
    features[1, 8:] = 100.0
    together = part(features, lengths).tokens
    for row, length in enumerate(lengths.tolist()):
        alone = part(features[row : row + 1, :length]).tokens[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_gets_a_gradient(kind):
    part = projector(kind, **({"num_experts": 2} if kind in ("mosa", "moe") else {}))
    part(torch.randn(2, 40, 24)).tokens.pow(3).sum().backward()
    assert [name for name, parameter in part.named_parameters() if not parameter.grad.any()] == []


@pytest.mark.parametrize(
    ("kind", "wrong"), [("mlp", {"frame_stacking": 0}), ("mosa", {"num_experts": 0}), ("qformer", {"queries": 0})]
)
def test_sizes_below_1_are_refused(kind, wrong):
    with pytest.raises(ValueError, match="must be"):
        projector(kind, **wrong)


def test_heads_must_divide_the_width_of_queries():
    with pytest.raises(ValueError, match="multiple of num_heads"):
        projector("qformer", hidden_dim=18)


def mixture(logits):
    """A mixture of four experts whose router gives a token of one-hot `i` the logits of row `i`."""
    experts = MixtureOfExperts(8, 8, num_experts=4, experts_per_token=2)
    experts.router.weight.data = torch.nn.functional.pad(logits.T, (0, 4))
    return experts


@torch.no_grad()
def test_the_balance_loss_penalises_a_router_that_always_picks_the_same_two():
    """Its mean probabilities are even, so that a loss on these alone would be minimal."""
    tokens = torch.eye(4, 8)[None]
    even = torch.full((4, 4), 0.0) + 1e-3 * torch.tensor([2.0, 1.0, 0.0, -1.0])
    fair = torch.stack([1e-3 * torch.tensor([2.0, 1.0, 0.0, -1.0]).roll(shift) for shift in (0, 2, 0, 2)])
    same, shared = (mixture(logits)(tokens)[1] for logits in (even, fair))
    assert same > shared
    collapsed = mixture(torch.tensor([[9.0, 9.0, 0.0, 0.0]]).repeat(4, 1))(tokens)[1]
    assert float(collapsed) == pytest.approx(2.0, abs=0.01)
    assert float(shared) == pytest.approx(1.0, abs=0.01)


def test_the_z_loss_uses_the_routers_logits_without_padding():
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0], [5.0, 5.0, 5.0, 5.0], [9.0, 0.0, 0.0, 0.0]])
    experts, tokens = mixture(logits), torch.eye(4, 8)[None]
    inside = torch.tensor([[True, True, False, False]])
    for mask, rows in ((inside, logits[:2]), (None, logits)):
        use = experts.use(tokens, mask)
        losses = router_losses(use, use.routed, experts_per_token=2)
        torch.testing.assert_close(losses.z, rows.logsumexp(-1).square().mean())
        torch.testing.assert_close(losses.balance, experts(tokens, mask)[1])


@torch.no_grad()
def test_moe_is_the_shared_expert_plus_the_best_two():
    part = projector("moe", num_experts=3)
    features = torch.randn(1, 5, 24)
    x = part.input_norm(features)
    expected = part.down(F.gelu(part.up(x)))
    shares = part.experts.router(x).softmax(-1)
    best, numbers = shares.topk(2, -1)
    for time in range(5):
        for weight, number in zip(best[0, time] / best[0, time].sum(), numbers[0, time], strict=True):
            expected[0, time] += weight * (F.gelu(x[0, time] @ part.experts.up[number]) @ part.experts.down[number])
    torch.testing.assert_close(part(features).tokens, part.output_norm(expected), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_mosa_is_the_weighted_sum_of_its_adapters():
    part = projector("mosa", num_experts=3)
    x = part.input_norm(torch.randn(1, 5, 24))
    shares = part.router(x).softmax(-1)
    ups, downs = part.up.weight.chunk(3), part.down.weight.chunk(3, 1)
    adapters = [F.gelu(x @ up.T) @ down.T for up, down in zip(ups, downs, strict=True)]
    expected = sum(shares[..., i : i + 1] * adapters[i] for i in range(3))
    torch.testing.assert_close(part.project(x, torch.tensor([5])), expected, rtol=1e-4, atol=1e-5)


class GatedProjector(Projector):
    """A projector of a user, given by its class path."""

    def __init__(self, *, gate: float = 1.0, **kwargs) -> None:
        super().__init__(**kwargs)
        self.gate = gate
        self.down = torch.nn.Linear(self.width, self.out_dim)
        self.add_output()

    def project(self, x, lengths):
        return self.gate * self.down(x)


def test_a_users_own_class_is_configured_trained_and_rebuilt():
    path = f"{__name__}.GatedProjector"
    settings = {"class_path": path, "init_args": {"in_dim": 512, "out_dim": 192, "gate": 0.5}}
    option = f"--model.init_args.vision_projector={json.dumps(settings)}"
    with torch.device("meta"):
        stage = Configuration(["--config", str(CONFIGS / "world/omni.yaml"), option]).make("model")
    assert type(stage.vision_projector) is GatedProjector
    again = build(stage.vision_projector.recipe)
    assert isinstance(again, GatedProjector)
    assert again.gate == 0.5
    tokens = again(torch.randn(2, 16, 512)).tokens
    assert tokens.shape == (2, 16, 192)
    tokens.sum().backward()
    assert again.down.weight.grad is not None


def test_the_interface_alone_is_not_a_projector():
    with pytest.raises(TypeError, match="abstract"):
        Projector(in_dim=24, out_dim=32)
