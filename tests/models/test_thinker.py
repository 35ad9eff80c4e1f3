"""The Thinker: decoding with a cache, counts, learning, and rebuilding from a recipe."""

import copy
import io
import pickle
import subprocess

import pytest
import torch

from omni.checkpoints.recipe import build
from omni.errors import UserError
from omni.layers.norm import RMSNorm
from omni.models.part import Part
from omni.models.thinker import Thinker

TOY = {"vocab_size": 40, "dim": 32, "num_layers": 2, "num_heads": 4, "ffn_dim": 48}
KINDS = {
    "dense": {},
    "gqa": {"num_kv_heads": 2},
    "moe": {"num_experts": 4},
    "axes": {"rope_axes": 3},
    "untied": {"tied": False, "head_dim": 6},
    "all": {"num_kv_heads": 1, "num_experts": 3, "experts_per_token": 1, "rope_axes": 3},
}
LENGTHS = (3, 7, 1, 5)

kinds = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)


def make(**options):
    """A Thinker in eval mode whose logits spread over about ± 5 and whose scales are away from 1."""
    torch.manual_seed(0)
    thinker = Thinker(**{**TOY, **options})
    for module in thinker.modules():
        if isinstance(module, RMSNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    torch.nn.init.normal_(thinker.head.weight, std=0.3)
    return thinker.eval()


def words(*shape, seed=1):
    return torch.randint(TOY["vocab_size"], shape, generator=torch.Generator().manual_seed(seed))


def close(actual, expected, tolerance=1e-4):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def loss_of(thinker, tokens):
    encoded = thinker.encode(tokens)
    return thinker.cross_entropy(encoded.hidden, tokens.roll(-1, 1)) + encoded.balance_loss


class Pair(Part):
    """A part of two parts, for nested recipes."""

    def __init__(self, first: Thinker, second: Part | None = None, *, scale: float = 2.0, names: tuple = ("a", "b")):
        super().__init__()
        self.first, self.second, self.scale, self.names = first, second, scale, names

    def forward(self, tokens):
        return self.scale * self.first(tokens).logits


# ---------------------------------------------------------------- the cache


@kinds
@pytest.mark.parametrize("pieces", [(1,) * 8, (4, 1, 1, 2), (8,)])
@torch.no_grad()
def test_cached_equals_uncached(options, pieces):
    thinker, tokens = make(**options), words(3, 8)
    cache, logits = thinker.new_cache(3, 8), []
    for piece in tokens.split(pieces, dim=1):
        logits.append(thinker(piece, cache=cache).logits)
        cache.advance(piece.shape[1])
    close(torch.cat(logits, dim=1), thinker(tokens).logits)


@kinds
@pytest.mark.parametrize("pieces", [(1, 1, 1, 1), (2, 2)])
@torch.no_grad()
def test_rows_of_unequal_length_are_continued_from_one_cache(options, pieces):
    thinker, rows = make(**options), [words(length + 4, seed=length) for length in LENGTHS]
    expected = torch.stack([thinker(row[None]).logits[0, -5:] for row in rows])
    prompts = words(len(rows), max(LENGTHS), seed=99)  # padding is arbitrary
    for row, tokens in enumerate(rows):
        prompts[row, : LENGTHS[row]] = tokens[: LENGTHS[row]]
    cache = thinker.new_cache(len(rows), max(LENGTHS) + 4)
    prefill = thinker(prompts, cache=cache).logits
    cache.advance(LENGTHS)
    logits = [prefill[torch.arange(len(rows)), torch.tensor(LENGTHS) - 1][:, None]]
    for piece in torch.stack([row[-4:] for row in rows]).split(pieces, dim=1):
        logits.append(thinker(piece, cache=cache).logits)
        cache.advance(piece.shape[1])
    close(torch.cat(logits, dim=1), expected)
    assert cache.lengths == [length + 4 for length in LENGTHS]


@kinds
@torch.no_grad()
def test_rows_may_grow_by_unequal_numbers_again(options):
    thinker = make(**options)
    grow = [(3, 1), (1, 4), (2, 2), (1, 3)]  # for each step, the number of new tokens of each row
    rows = [words(sum(step[row] for step in grow), seed=row) for row in (0, 1)]
    cache, done = thinker.new_cache(2, 30), [0, 0]
    for counts in grow:
        piece = words(2, max(counts), seed=9)
        for row, count in enumerate(counts):
            piece[row, :count] = rows[row][done[row] : done[row] + count]
        logits = thinker(piece, cache=cache).logits
        cache.advance(counts)
        for row, count in enumerate(counts):
            whole = thinker(rows[row][None]).logits[0, done[row] : done[row] + count]
            close(logits[row, :count], whole)
            done[row] += count
    assert cache.lengths == done


@torch.no_grad()
def test_positions_on_three_axes_are_cached_like_any():
    thinker, tokens = make(rope_axes=3), words(2, 10)
    positions = torch.stack((torch.arange(10).expand(2, 10), words(2, 10, seed=2), words(2, 10, seed=3)))
    cache, logits = thinker.new_cache(2, 10), []
    for start, stop in ((0, 6), (6, 7), (7, 10)):
        piece = thinker(tokens[:, start:stop], positions=positions[..., start:stop], cache=cache).logits
        logits.append(piece)
        cache.advance(stop - start)
    whole = thinker(tokens, positions=positions).logits
    close(torch.cat(logits, dim=1), whole)
    assert not torch.allclose(whole, thinker(tokens).logits, atol=1e-2)


@pytest.mark.parametrize("inside", [True, False])
@torch.no_grad()
def test_a_cache_under_autocast_stays_close(inside):
    thinker, tokens = make(num_kv_heads=2), words(2, 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=inside):
        cache = thinker.new_cache(2, 8)
    assert cache.keys.dtype == cache.values.dtype == (torch.bfloat16 if inside else torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        first = thinker(tokens[:, :6], cache=cache).logits
        cache.advance([6, 3])
        second = thinker(tokens[:, 6:7], cache=cache).logits
    whole = thinker(tokens).logits
    close(first.float(), whole[:, :6], 0.2)
    close(second[0].float(), whole[0, 6:7], 0.2)


@pytest.mark.parametrize("used", [[4, 4], [5, 1]])
@torch.no_grad()
def test_a_full_cache_refuses_more_tokens(used):
    thinker = make()
    cache = thinker.new_cache(2, 6)
    thinker(words(2, max(used)), cache=cache)
    cache.advance(used)
    thinker(words(2, 6 - max(used)), cache=cache)  # still fits
    with pytest.raises(ValueError, match="cache holds 6"):
        thinker(words(2, 7 - max(used)), cache=cache)


# ---------------------------------------------------------------- inputs and outputs


@kinds
@torch.no_grad()
def test_embeddings_of_tokens_equal_tokens(options):
    thinker, tokens = make(**options), words(2, 6)
    for actual, expected in zip(thinker(embeddings=thinker.embed(tokens)), thinker(tokens), strict=True):
        assert torch.equal(actual, expected)


def test_token_embeddings_have_the_rms_of_block_outputs():
    torch.manual_seed(0)
    thinker = Thinker(vocab_size=512, dim=64, num_layers=2, num_heads=4, ffn_dim=128)
    tokens = torch.randint(512, (4, 64))
    embedded = thinker.embed(tokens)
    assert thinker.embedding_rms == pytest.approx(1, rel=0.05)
    assert float(embedded.detach().square().mean().sqrt()) == pytest.approx(thinker.embedding_rms, rel=0.05)
    added = thinker.transformer.blocks[0](embedded, thinker.transformer.rotary(torch.arange(64)), None, None, None, 0)[
        0
    ]
    assert float((added - embedded).detach().square().mean().sqrt()) < 2 * thinker.embedding_rms


def test_tokens_and_embeddings_exclude_each_other():
    thinker, tokens = make(), words(2, 6)
    for arguments in ({}, {"tokens": tokens, "embeddings": thinker.embed(tokens)}):
        with pytest.raises(ValueError, match="either tokens or embeddings"):
            thinker(**arguments)


@kinds
@torch.no_grad()
def test_losses_equal_those_of_the_logits(options):
    thinker, tokens, targets = make(**options), words(2, 6), words(2, 6, seed=2)
    output = thinker(tokens)
    expected = -output.logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    close(thinker.nll(output.hidden, targets), expected)
    close(thinker.cross_entropy(output.hidden, targets), expected.sum())


def test_the_first_loss_is_about_that_of_a_uniform_guess():
    torch.manual_seed(0)
    thinker, tokens = Thinker(**TOY, tied=False), words(4, 16)
    assert thinker.nll(thinker(tokens).hidden, words(4, 16, seed=2)).mean().exp().item() == pytest.approx(40, rel=0.1)


# ---------------------------------------------------------------- counting


def test_tying_saves_one_matrix():
    tied, untied = Thinker(**TOY), Thinker(**TOY, tied=False)
    assert tied.head.weight is tied.embedding.weight
    assert untied.num_parameters - tied.num_parameters == 40 * 32
    assert untied.flops_per_token == tied.flops_per_token


def test_the_documented_tiny_size():
    with torch.device("meta"):
        tiny = Thinker(vocab_size=32_000, dim=256, num_layers=4, num_heads=4, num_kv_heads=2, ffn_dim=1024, tied=False)
    assert tiny.num_parameters == pytest.approx(20.3e6, rel=0.01)


def test_only_the_experts_at_work_count_as_operations():
    def flops(**options):
        return Thinker(**TOY, **options).flops_per_token

    expert, router = 3 * 32 * 48, 32  # weights of an expert, and of its row in the router
    assert flops(num_experts=8) - flops(num_experts=4) == 6 * 2 * 4 * router
    assert flops(num_experts=8, experts_per_token=3) - flops(num_experts=8) == 6 * 2 * expert
    assert flops(num_experts=1, experts_per_token=1) - flops() == 6 * 2 * router
    assert flops() == 6 * Thinker(**TOY).num_parameters


# ---------------------------------------------------------------- learning


@kinds
def test_every_parameter_gets_a_gradient(options):
    thinker = make(**options).train()
    loss_of(thinker, words(8, 32)).backward()
    idle = [name for name, p in thinker.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []
    for block in thinker.transformer.blocks:
        for weight in (block.ffn.up, block.ffn.down) if thinker.mixture else ():
            assert weight.grad.flatten(1).any(1).all()  # for each expert


@kinds
@pytest.mark.parametrize("frozen", ["embedding", "transformer.blocks.0"])
def test_frozen_parts_get_no_gradient(options, frozen):
    thinker = make(**options).train()
    thinker.get_submodule(frozen).requires_grad_(False)
    loss_of(thinker, words(2, 8)).backward()
    assert any(not p.requires_grad for p in thinker.parameters())
    for parameter in thinker.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad


@pytest.mark.parametrize("name", ["dense", "all"])
def test_a_few_steps_overfit_a_text(name):
    thinker, tokens = make(**KINDS[name]).train(), words(2, 8)
    optimizer = torch.optim.Adam(thinker.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = loss_of(thinker, tokens)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4


# ---------------------------------------------------------------- recipes


def stored(recipe):
    """The recipe after loading from a file with `weights_only`."""
    file = io.BytesIO()
    torch.save(recipe, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def parts():
    thinker = make()
    return {
        "thinker": make(num_experts=4),
        "nested": Pair(make(num_kv_heads=2), make(tied=False), scale=3.0),
        "deeper": Pair(thinker, Pair(make(rope_axes=3))),
    }


@pytest.mark.parametrize("name", parts())
@torch.no_grad()
def test_a_part_is_rebuilt_from_its_recipe(name):
    part, tokens = parts()[name], words(2, 5)
    rebuilt = build(stored(part.recipe)).eval()
    assert type(rebuilt) is type(part)
    assert rebuilt.recipe == part.recipe
    rebuilt.load_state_dict(part.state_dict())
    for actual, expected in zip(rebuilt(tokens), part(tokens), strict=True):
        assert torch.equal(actual, expected)


def test_a_recipe_holds_the_given_arguments_only():
    inner = make()
    assert inner.recipe == {"class_path": "omni.models.thinker.Thinker", "init_args": TOY}
    recipe = Pair(inner, scale=3.0).recipe
    assert recipe["init_args"] == {"first": inner.recipe, "scale": 3.0}
    assert Pair(first=inner, scale=3.0).recipe == recipe  # by position or by name


@pytest.mark.parametrize("class_path", ["subprocess.Popen", "torch.nn.Linear", "omni.models.thinker.ThinkerOutput"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_recipe_of_another_class_is_not_called(class_path, nested, monkeypatch):
    called = []
    monkeypatch.setattr(subprocess.Popen, "__init__", lambda *args, **kwargs: called.append(args))
    recipe = {"class_path": class_path, "init_args": {"args": ["true"]}}
    if nested:
        recipe = {"class_path": f"{__name__}.Pair", "init_args": {"first": recipe}}
    with pytest.raises(UserError, match="not a Part"):
        build(recipe)
    assert called == []


@pytest.mark.parametrize("class_path", ["no_such_module.Thinker", "omni.models.thinker.NoSuchClass", "Thinker", ""])
def test_a_class_that_cannot_be_imported_is_a_user_error(class_path):
    with pytest.raises(UserError, match="checkpoint"):
        build({"class_path": class_path, "init_args": {}})


@pytest.mark.parametrize("init_args", [{}, {**TOY, "num_wheels": 4}])
def test_arguments_of_another_version_are_a_user_error(init_args):
    with pytest.raises(UserError, match="another version"):
        build({"class_path": "omni.models.thinker.Thinker", "init_args": init_args})


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))])
@pytest.mark.parametrize("name", parts())
@torch.no_grad()
def test_a_part_survives_copying_and_pickling(name, duplicate):
    part, tokens = parts()[name], words(2, 5)
    twin = duplicate(part)
    assert twin.recipe == part.recipe
    assert twin.num_parameters == part.num_parameters  # tied weights stay tied
    before = part(tokens)
    for actual, expected in zip(twin(tokens), before, strict=True):
        assert torch.equal(actual, expected)
    for parameter in twin.parameters():
        parameter.zero_()
    for actual, expected in zip(part(tokens), before, strict=True):
        assert torch.equal(actual, expected)
