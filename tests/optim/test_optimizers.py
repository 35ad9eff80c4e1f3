"""Muon's steps equal PyTorch's, every parameter has one optimizer, and schedules apply to both."""

import copy
import io
import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from omni.errors import UserError
from omni.layers.norm import RMSNorm
from omni.models.classifier import Classifier
from omni.models.thinker import Thinker
from omni.optim.optimizers import Muon, adamw, lr_factor, muon, scale_gradients

SETTINGS = {"lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.1}
SHAPES = [(24, 24), (16, 48), (48, 16), (16, 48), (24, 24)]
KINDS = {
    "tied": {},
    "untied": {"tied": False},
    "moe": {"num_experts": 2},
}

kinds = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
both = pytest.mark.parametrize("make", [adamw, muon])


def thinker(**options):
    torch.manual_seed(0)
    return Thinker(**{"vocab_size": 30, "dim": 16, "num_layers": 2, "num_heads": 2, "ffn_dim": 24, **options})


def matrices():
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def learn(model, optimizer, steps, *, seed=1):
    """Trains on random tokens; the same seed gives the same gradients at the same weights."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        tokens = torch.randint(30, (2, 8), generator=generator)
        optimizer.zero_grad()
        model.cross_entropy(model.encode(tokens).hidden, tokens.roll(-1, 1)).backward()
        optimizer.step()


def stored(state):
    """The state after loading from a file with `weights_only`."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def is_matrix(model, name):
    """Whether a parameter is a matrix or a stack of matrices, and not the scale of a norm."""
    return not isinstance(model.get_submodule(name.rpartition(".")[0]), RMSNorm)


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


# ---------------------------------------------------------------- Muon


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
@pytest.mark.parametrize("momentum", [0.0, 0.95])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 0.03), ("bf16", 0.03), ("both in fp32", 1e-4)])
def test_muon_equals_pytorchs(momentum, weight_decay, precision, tolerance, monkeypatch):
    monkeypatch.setattr("omni.optim.optimizers.multiplies_bf16", lambda device: precision == "bf16")
    if precision == "both in fp32":  # PyTorch's rounds to bf16, a difference of 1 to 3 %
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    ours, theirs = matrices(), matrices()
    settings = {"lr": 0.02, "momentum": momentum, "weight_decay": weight_decay}
    optimizers = [Muon(ours, **settings), torch.optim.Muon(theirs, **settings, adjust_lr_fn="match_rms_adamw")]
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        before = [p.detach().clone() for p in ours]
        for mine, its in zip(ours, theirs, strict=True):
            its.data.copy_(mine.data)
            mine.grad = torch.randn(mine.shape, generator=generator)
            its.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
        for mine, its, old in zip(ours, theirs, before, strict=True):
            step, expected = mine.detach() - old, its.detach() - old
            assert expected.norm() > 0
            assert (step - expected).norm() < tolerance * expected.norm()


@pytest.mark.parametrize("shape", [(32, 32), (16, 64), (64, 16), (1, 8)])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize(("bf16", "tolerance"), [(False, 1e-3), (True, 0.03)])
def test_orthogonalising_makes_singular_values_about_one_and_keeps_singular_vectors(
    shape, size, bf16, tolerance, monkeypatch
):
    monkeypatch.setattr("omni.optim.optimizers.multiplies_bf16", lambda device: bf16)
    random = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    left, _, right = torch.linalg.svd(random, full_matrices=False)
    values = torch.linspace(0.1, 1, min(shape), dtype=torch.double)
    result = Muon.orthogonalise((size * left * values @ right).float()).double()
    turned = left.mT @ result @ right.mT  # diagonal if the singular vectors are the same
    singular = turned.diagonal(dim1=1, dim2=2)
    assert singular.min() > 0.6
    assert singular.max() < 1.3
    assert (turned - torch.diag_embed(singular)).abs().max() < tolerance


def test_a_stack_is_updated_like_single_matrices():
    generator = torch.Generator().manual_seed(0)
    stack = nn.Parameter(torch.randn(15, 8, 12, generator=generator))
    single = [nn.Parameter(matrix.detach().clone()) for matrix in stack]
    optimizers = Muon([stack], lr=0.1), Muon(single, lr=0.1)
    for _ in range(3):
        stack.grad = torch.randn(stack.shape, generator=generator)
        for matrix, gradient in zip(single, stack.grad, strict=True):
            matrix.grad = gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
        torch.testing.assert_close(stack.detach(), torch.stack([matrix.detach() for matrix in single]))


def test_orthogonalising_zeros_gives_zeros():
    assert not Muon.orthogonalise(torch.zeros(2, 4, 6)).any()


def test_the_rms_of_muons_update_is_a_fifth_of_the_learning_rate():
    for parameter in matrices():
        optimizer, before = Muon([parameter], lr=0.5, weight_decay=0.0), parameter.detach().clone()
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        optimizer.step()
        assert (parameter - before).square().mean().sqrt().item() == pytest.approx(0.1, rel=0.2)


def test_a_matrix_without_a_gradient_is_unchanged():
    parameters = matrices()
    parameters[0].grad = torch.ones_like(parameters[0])
    Muon(parameters, lr=0.1).step()
    moved = [not torch.equal(new, old) for new, old in zip(parameters, matrices(), strict=True)]
    assert moved == [True] + [False] * (len(SHAPES) - 1)


# ---------------------------------------------------------------- parameters of each optimizer


@both
@kinds
def test_only_matrices_decay(make, options):
    model = thinker(**options)
    optimizer, before = make(model, **SETTINGS), {n: p.detach().clone() for n, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        kept = 1 - 0.01 * 0.1 if is_matrix(model, name) else 1
        torch.testing.assert_close(parameter.detach(), before[name] * kept, rtol=1e-6, atol=0, msg=name)


@both
@kinds
@pytest.mark.parametrize("frozen", [None, "transformer.blocks.0", "embedding"])
def test_every_trainable_parameter_is_in_one_group(make, options, frozen):
    model = thinker(**options)
    if frozen:
        model.get_submodule(frozen).requires_grad_(False)
    grouped = [p for group in make(model, **SETTINGS).param_groups for p in group["params"]]
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert sorted(map(id, grouped)) == sorted(map(id, trainable))


@kinds
def test_muon_gets_the_matrices_inside_blocks_and_adamw_the_rest(options):
    model = thinker(**options)
    chosen = {id(p) for group in muon(model, **SETTINGS).optimizers[0].param_groups for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in chosen}
    linear = {f"{name}.weight" for name, module in model.transformer.named_modules() if isinstance(module, nn.Linear)}
    experts = {name for name, _ in model.transformer.named_parameters() if name.endswith(("ffn.up", "ffn.down"))}
    inside = {name for name in linear | experts if "router" not in name}
    assert names == {f"transformer.{name}" for name in inside}
    assert len(names) >= 4


def muons(module):
    """Names of the parameters that Muon gets."""
    optimizers = [each for each in muon(module, **SETTINGS).optimizers if isinstance(each, Muon)]
    chosen = {id(p) for each in optimizers for group in each.param_groups for p in group["params"]}
    return {name for name, p in module.named_parameters() if id(p) in chosen}


def toy_parts():
    from toy_omni import toy_omni
    from toy_voice import talker_of

    omni = toy_omni(kind="mosa")
    return {
        "talker": talker_of(num_speakers=3),
        "audio_encoder": omni.audio_encoder,
        "audio_projector": omni.audio_projector,
        "classifier": Classifier(dim=8, num_classes=5),
    }


SCORES = {
    "talker": {"advance.weight", *(f"depth.heads.{level}.weight" for level in range(3))},
    "audio_encoder": {"head.weight"},
    "audio_projector": {"router.0.weight", "router.2.weight"},
    "classifier": {"head.weight"},
}


@pytest.mark.parametrize("name", SCORES)
def test_layers_that_output_scores_are_trained_by_adamw(name):
    part, scores = toy_parts()[name], SCORES[name]
    linear = {f"{name}.weight" for name, module in part.named_modules() if isinstance(module, nn.Linear)}
    assert scores <= linear
    assert muons(part) == linear - scores


def test_the_head_of_a_pretrained_model_is_trained_by_adamw(tmp_path):
    import toy_pretrained

    from omni.models.pretrained.thinker import PretrainedThinker

    thinker = PretrainedThinker(source=toy_pretrained.llm(tmp_path, "llama"))  # the head is not tied
    names = muons(thinker)
    assert "model.lm_head.weight" not in names
    assert "model.model.layers.0.self_attn.q_proj.weight" in names


@pytest.mark.parametrize(("trained", "kinds"), [("router", ["AdamW"]), ("transformer.blocks.0.ffn.up", ["Muon"])])
def test_parameters_of_one_kind_alone_are_trained(trained, kinds):
    """For example LoRA's matrices, if everything else is frozen."""
    model = thinker(num_experts=2)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained in name)
    optimizer, before = muon(model, **SETTINGS), copy.deepcopy(model)
    assert [type(each).__name__ for each in optimizer.optimizers] == kinds
    learn(model, optimizer, 1)
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before.get_parameter(n))}
    assert changed == {name for name, _ in model.named_parameters() if trained in name}
    muon(before, **SETTINGS).load_state_dict(stored(optimizer.state_dict()))


def test_the_state_of_other_parameters_is_refused_in_one_line():
    model = thinker()
    optimizer = muon(model, **SETTINGS)
    model.transformer.blocks[0].attention.qkv.requires_grad_(False)
    with pytest.raises(UserError, match="cannot be resumed: start a new one"):
        muon(model, **SETTINGS).load_state_dict(stored(optimizer.state_dict()))


@both
def test_both_optimizers_learn(make):
    model = thinker()
    tokens = torch.arange(8)[None]

    def loss():
        return model.cross_entropy(model.encode(tokens).hidden, tokens.roll(-1, 1))

    optimizer, before = make(model, **SETTINGS), loss().item()
    for _ in range(30):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < before / 2


def test_a_closure_is_called_once_and_its_loss_returned():
    model = thinker()
    optimizer, calls = muon(model, **SETTINGS), []

    def closure():
        assert torch.is_grad_enabled()
        calls.append(1)
        return torch.tensor(7.0)

    with torch.no_grad():
        assert optimizer.step(closure) == 7
    assert calls == [1]


# ---------------------------------------------------------------- state


@both
@kinds
def test_a_stored_optimizer_resumes_exactly(make, options):
    model, twin = thinker(**options), thinker(**options)
    optimizer = make(model, **SETTINGS)
    learn(model, optimizer, 3)
    state, weights = stored(optimizer.state_dict()), stored(model.state_dict())
    learn(model, optimizer, 3, seed=2)

    resumed = make(twin, **SETTINGS)
    twin.load_state_dict(weights)
    resumed.load_state_dict(state)
    learn(twin, resumed, 3, seed=2)
    assert equal(twin, model)

    forgetful = make(twin, **SETTINGS)
    twin.load_state_dict(weights)
    learn(twin, forgetful, 3, seed=2)
    assert not equal(twin, model)


@pytest.mark.parametrize("loaded", [False, True])
def test_a_learning_rate_set_from_outside_applies_to_both_optimizers(loaded):
    model = thinker()
    optimizer = muon(model, **SETTINGS)
    learn(model, optimizer, 1)
    if loaded:
        optimizer.load_state_dict(stored(optimizer.state_dict()))
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    assert [g["lr"] for inner in optimizer.optimizers for g in inner.param_groups] == [0.0] * 3
    before = [p.detach().clone() for p in model.parameters()]
    learn(model, optimizer, 1)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_a_schedule_resumes_after_a_state_is_loaded():
    rates, state = [], None
    for start, stop in ((0, 3), (3, 6)):
        model = thinker()
        optimizer = muon(model, **SETTINGS)
        schedule = LambdaLR(optimizer, lambda step: 1 / (1 + step))
        if state is not None:
            optimizer.load_state_dict(state[0])
            schedule.load_state_dict(state[1])
        for _ in range(start, stop):
            rates.append([group["lr"] for inner in optimizer.optimizers for group in inner.param_groups])
            learn(model, optimizer, 1)
            schedule.step()
        state = stored(optimizer.state_dict()), schedule.state_dict()
    for step, found in enumerate(rates):
        assert found == pytest.approx([0.01 / (1 + step)] * 3)


# ---------------------------------------------------------------- schedule


def factors(schedule, *, warmup_steps=10, total_steps=110, final=0.1):
    return [
        lr_factor(step, schedule=schedule, warmup_steps=warmup_steps, total_steps=total_steps, final=final)
        for step in range(total_steps + 5)
    ]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_warm_up_is_linear_and_starts_above_zero(schedule):
    assert factors(schedule)[:11] == pytest.approx([(step + 1) / 10 for step in range(10)] + [1.0])
    assert factors(schedule, warmup_steps=0)[0] == 1


@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_decay_falls_from_the_peak_to_its_floor_and_stays(schedule, final):
    decay = factors(schedule, final=final)[10:]
    assert decay[0] == pytest.approx(1)
    assert decay[50] == pytest.approx((1 + final) / 2)  # both are at half in the middle
    assert decay[100:] == pytest.approx([final] * 5)
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(decay))
    quarter = 0.75 if schedule == "linear" else (1 + math.cos(math.pi / 4)) / 2
    assert decay[25] == pytest.approx(final + (1 - final) * quarter)


def test_constant_stays_at_the_peak_without_an_end():
    assert factors("constant")[10:] == [1.0] * 105
    assert lr_factor(10**9, schedule="constant", warmup_steps=5, total_steps=math.inf, final=0.0) == 1


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_run_shorter_than_its_warm_up_stays_in_bounds(schedule):
    assert all(0 <= factor <= 1 for factor in factors(schedule, warmup_steps=10, total_steps=5))


@pytest.mark.parametrize("factor", [0.5, torch.tensor(0.5)])
def test_only_existing_gradients_are_scaled(factor):
    parameters = matrices()
    scale_gradients(parameters, factor)
    parameters[1].grad = torch.full(SHAPES[1], 4.0)
    scale_gradients(parameters, factor)
    assert (parameters[1].grad == 2).all()
    assert parameters[0].grad is None


@both
def test_fp16_gradients_are_unscaled_once_and_clipped(make):
    """Like in Lightning: unscale, clip, step. A fused AdamW that unscaled again would make almost no step."""
    model, scaler = thinker(), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    plain = copy.deepcopy(model)
    tokens = torch.arange(8)[None]
    for which in (model, plain):
        optimizer = make(which, **SETTINGS)
        loss = which.cross_entropy(which.encode(tokens).hidden, tokens.roll(-1, 1))
        (scaler.scale(loss) if which is model else loss).backward()
        if which is model:
            assert not getattr(optimizer, "_step_supports_amp_scaling", False)
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(which.parameters(), 1.0)
        scaler.step(optimizer) if which is model else optimizer.step()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, plain.get_parameter(name), rtol=1e-4, atol=1e-6)
