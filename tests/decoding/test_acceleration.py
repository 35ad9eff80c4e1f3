"""Compiled steps and weights of 8 bits: what they choose, store and refuse."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from toy_talker import learned, make

from omni.decoding import acceleration
from omni.decoding.acceleration import accelerate
from omni.decoding.sampling import generate
from omni.decoding.sampling_options import Sampling, SpeechSampling
from omni.decoding.talker import speak_codes
from omni.devices import has_compiler
from omni.errors import UserError
from omni.layers.int8_linear import Int8Linear, quantize_linears
from omni.models.thinker import Thinker

PROMPTS = [[1, 2, 3, 4, 5, 6], [7], [3, 1, 2]]
COMPILES = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # the compiler's own


def thinker(**options) -> Thinker:
    torch.manual_seed(0)
    model = Thinker(vocab_size=64, dim=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=64, **options).eval()
    nn.init.normal_(model.head.weight, std=0.5)  # choices that rounding does not change
    return model


def continued(model: Thinker, prompts: list[list[int]]) -> list[list[int | None]]:
    return [*generate(model, prompts, max_tokens=9, stop=-1, sampling=Sampling(temperature=0))]


@pytest.fixture
def traced(monkeypatch):
    """Steps are traced as one graph, which is then run by PyTorch's operations."""
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(acceleration, "has_compiler", lambda kind: True)


@COMPILES
@pytest.mark.parametrize("options", [{}, {"rope_axes": 3, "shared_qk_scales": True}, {"num_experts": 4}])
@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1], [[1, 2, 3], [4, 5, 6]]])
def test_a_compiled_thinker_chooses_the_same_tokens(traced, options, prompts):
    model = thinker(**options)
    expected = continued(model, prompts)
    accelerate([None, model], compile=True)
    assert continued(model, prompts) == expected


@COMPILES
def test_one_graph_for_a_row_and_one_for_several(traced):
    model = thinker()
    torch._dynamo.utils.counters.clear()
    accelerate([model], compile=True)
    for prompts in (PROMPTS, PROMPTS[:1], PROMPTS * 2, [[1, 2], [3, 4]]):
        continued(model, prompts)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


@COMPILES
def test_positions_of_media_need_no_other_graph(traced):
    model = thinker(rope_axes=3)
    positions = torch.arange(3.0).expand(3, 1, 3) + 0.5
    media = partial(generate, model, [[1, 2, 3]], max_tokens=9, stop=-1, sampling=Sampling(temperature=0))
    expected = [*media(positions=positions)]
    torch._dynamo.utils.counters.clear()
    accelerate([model], compile=True)
    assert [*media(positions=positions)] == expected
    assert [*media()] == continued(model, [[1, 2, 3]])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # for a row and for several, at the start


@COMPILES
def test_the_cache_holds_what_the_layers_store(traced):
    model, filled = thinker(), []
    for compiled in (False, True):
        accelerate([model], compile=compiled)
        cache = model.new_cache(2, 8)
        with torch.inference_mode():
            model.encode(torch.tensor([[1, 2, 3], [4, 5, 6]]), cache=cache)
            cache.advance([3, 2])
            for token in (7, 8):
                hidden = model.encode(torch.tensor([[token], [token]]), cache=cache).hidden
                cache.advance(1)
        filled.append((hidden, *(entries[:, 0, :, :5] for entries in (cache.keys, cache.values))))
        filled[-1] += tuple(entries[:, 1, :, :4] for entries in (cache.keys, cache.values))
    for layers, graph in zip(*filled, strict=True):
        torch.testing.assert_close(layers, graph)
    full, token = model.new_cache(1, 2), torch.tensor([[3]])
    with torch.inference_mode():
        model.encode(torch.tensor([[1, 2]]), cache=full)
        full.advance(2)
        with pytest.raises(ValueError, match="the cache holds 2 entries"):
            model.encode(token, cache=full)


@COMPILES
def test_a_copy_runs_its_own_weights(traced):
    model = thinker()
    accelerate([model], compile=True)
    other = copy.deepcopy(model)
    nn.init.normal_(other.transformer.blocks[0].ffn.down.weight)
    plain = thinker()
    plain.load_state_dict(other.state_dict())
    assert continued(other, PROMPTS) == continued(plain, PROMPTS) != continued(model, PROMPTS)


@COMPILES
@pytest.mark.parametrize("options", [{"temperature": 0.0}, {}, {"top_k": 2}, {"top_p": 0.7}])
def test_a_compiled_talker_says_the_same(traced, options):
    talker, texts = learned()
    kinds = dict.fromkeys(("first", "rest", "pace"), Sampling(**options))
    sampling = SpeechSampling(**kinds)
    expected = speak_codes(talker, texts, sampling=sampling)
    talker = copy.deepcopy(talker)
    accelerate([talker], compile=True)
    for before, after in zip(expected, speak_codes(talker, texts, sampling=sampling), strict=True):
        assert torch.equal(before, after)


@pytest.mark.slow
@COMPILES
@pytest.mark.skipif(not has_compiler(), reason="torch.compile needs a C++ compiler")
def test_machine_code_chooses_the_same_with_weights_of_8_bits():
    torch.compiler.reset()
    model = thinker()
    accelerate([model], int8=True)
    expected = continued(model, PROMPTS), continued(model, PROMPTS[:1])
    accelerate([model], compile=True)
    assert (continued(model, PROMPTS), continued(model, PROMPTS[:1])) == expected


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_weights_of_8_bits_are_within_their_rounding(bias, rows):
    torch.manual_seed(0)
    linear = nn.Linear(96, 40, bias=bias)
    linear.weight.data[3] = 0  # a row without a scale
    x = torch.randn(rows, 1, 96)
    quantized = Int8Linear(linear)
    with torch.no_grad():
        found, exact = quantized(x), linear(x)
    assert found.shape == exact.shape
    assert found.dtype == exact.dtype
    # Half a step of each weight, and bf16 activations and results.
    bound = (quantized.scales.float() / 2 * x.abs().sum(-1, keepdim=True)) + 2**-7 * (x.abs() @ linear.weight.abs().mT)
    bound += 2**-8 * (0 if linear.bias is None else linear.bias.abs()) + 1e-6
    assert ((found - exact).abs() <= bound).all()
    assert (found != exact).any()


def test_more_rows_and_gradients_use_the_weights_themselves():
    model = nn.Sequential(nn.Linear(32, 64), nn.Sequential(nn.Linear(64, 30, bias=False), nn.Linear(30, 2)))
    quantized = copy.deepcopy(model)
    quantize_linears(quantized)
    assert sum(isinstance(module, Int8Linear) for module in quantized.modules()) == 2
    assert quantized.state_dict().keys() == model.state_dict().keys()
    assert type(quantized[1][1]) is nn.Linear  # 30 inputs
    many, few = torch.randn(9, 32), torch.randn(8, 32)
    with torch.no_grad():
        assert torch.equal(quantized(many), model(many))
        assert not torch.equal(quantized(few), model(few))
    assert torch.equal(quantized(few), model(few))


def test_a_layer_that_the_kernel_would_read_beyond_is_refused():
    with pytest.raises(ValueError, match="must be a multiple of 32, not 30"):
        Int8Linear(nn.Linear(30, 2))


def test_a_tied_head_keeps_its_embedding():
    model = thinker(tied=True)
    accelerate([model], int8=True)
    assert isinstance(model.head, Int8Linear)
    assert model.head.weight is model.embedding.weight
    assert continued(model, PROMPTS) == continued(thinker(tied=True), PROMPTS)


def test_a_talker_with_weights_of_8_bits_speaks_the_toy_language():
    talker, texts = learned()
    certain = Sampling(temperature=0)
    sampling = SpeechSampling(first=certain, rest=certain, pace=certain)
    expected = speak_codes(talker, texts, sampling=sampling)
    talker = copy.deepcopy(talker)
    accelerate([talker], int8=True)
    assert any(isinstance(module, Int8Linear) for module in talker.transformer.modules())
    for before, after in zip(expected, speak_codes(talker, texts, sampling=sampling), strict=True):
        assert torch.equal(before, after)


def test_what_this_machine_cannot_do_is_refused(monkeypatch):
    monkeypatch.setattr(acceleration, "has_compiler", lambda kind: False)
    with pytest.raises(UserError, match="--compile needs a C\\+\\+ compiler"):
        accelerate([make()], compile=True)
    for models in ([], [None, nn.Linear(32, 32)]):
        with pytest.raises(UserError, match="--compile and --int8 are for omni's own Thinker and Talker"):
            accelerate(models, int8=True)
    with torch.device("meta"), pytest.raises(UserError, match="--int8 is for models on a CPU, and these are on meta"):
        accelerate([make()], int8=True)
