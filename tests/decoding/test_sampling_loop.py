"""Generation equals a plain uncached loop, row by row, and sampling has the right distribution."""

import pytest
import torch

from omni.decoding.sampling import Sampling, choose_tokens, generate
from omni.errors import UserError
from omni.inference.text import TextModel
from omni.models.thinker import Thinker
from omni.text.tokenizer import BOS, EOS, ByteTokenizer

VOCAB = 30
NEVER = VOCAB + 99  # a stop token that no model outputs
PROMPTS = [[3, 1, 4], [1, 5, 9, 2, 6, 5, 3, 5], [8], [9, 7, 9, 3, 2]]
GREEDY = Sampling(temperature=0)
KINDS = {
    "dense": {"num_kv_heads": 2},
    "moe": {"num_experts": 4},
    "axes": {"rope_axes": 3},
}
SAMPLINGS = {
    "greedy": GREEDY,
    "plain": Sampling(seed=3),
    "top": Sampling(temperature=0.7, top_k=8, top_p=0.9, seed=4),
    "penalty": Sampling(repetition_penalty=1.5, seed=5),
    "greedy penalty": Sampling(temperature=0, repetition_penalty=1.5),
}

kinds = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
samplings = pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)


def make(vocab_size=VOCAB, **options):
    """A Thinker with varied outputs: its attention is sharp, and its head is not its embedding."""
    torch.manual_seed(1)
    toy = {"vocab_size": vocab_size, "dim": 32, "num_layers": 2, "num_heads": 4, "ffn_dim": 48, "tied": False}
    thinker = Thinker(**{**toy, **options})
    torch.nn.init.normal_(thinker.embedding.weight, std=0.5)
    torch.nn.init.normal_(thinker.head.weight, std=0.3)
    for block in thinker.transformer.blocks:
        torch.nn.init.constant_(block.attention.qk_norm.weight, 3.0)
        torch.nn.init.normal_(block.attention.out.weight, std=0.15)
    return thinker.eval()


def constant(logits):
    """A Thinker with constant logits."""
    thinker = make(len(logits), dim=16)
    with torch.no_grad():
        thinker.transformer.norm.weight.zero_()
    bias = torch.tensor(logits)
    thinker.logits = lambda hidden: bias.expand(*hidden.shape[:-1], -1)
    return thinker


def continued(thinker, prompts, sampling=GREEDY, *, max_tokens=8, stop=NEVER, **kwargs):
    """The generated tokens of each row, without padding."""
    steps = list(generate(thinker, prompts, max_tokens=max_tokens, stop=stop, sampling=sampling, **kwargs))
    return [[token for token in row if token is not None] for row in zip(*steps, strict=True)]


@torch.no_grad()
def slowly(thinker, prompt, *, max_tokens=8, stop=NEVER):
    """Greedy decoding without cache: each token from the whole text before it."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + max_tokens:
        tokens.append(thinker(torch.tensor([tokens])).logits[0, -1].argmax().item())
        if tokens[-1] == stop:
            break
    return tokens[len(prompt) :]


def chi_square(counts, probabilities):
    """Pearson's statistic; for counts drawn from `probabilities` its mean is the number of cells minus 1."""
    expected = probabilities * counts.sum()
    assert not counts[expected == 0].any()
    return ((counts - expected).square() / expected)[expected > 0].sum().item()


# ---------------------------------------------------------------- equal to the plain loop


@kinds
def test_greedy_equals_the_plain_loop(options):
    thinker = make(**options)
    expected = [slowly(thinker, prompt) for prompt in PROMPTS]
    assert continued(thinker, PROMPTS) == expected
    assert len({tuple(row) for row in expected}) == len(PROMPTS)
    assert len({token for row in expected for token in row}) > 8  # the texts vary


@kinds
@samplings
def test_a_row_does_not_depend_on_the_others(options, sampling):
    thinker = make(**options)
    together = continued(thinker, PROMPTS, sampling)
    assert continued(thinker, PROMPTS[:1], sampling) == together[:1]
    others = [
        [2, 2],
        PROMPTS[1],
        [7] * 12,
        PROMPTS[3],
    ]  # a row's index selects its stream
    assert continued(thinker, others, sampling)[1::2] == together[1::2]


@pytest.mark.parametrize("name", ["plain", "top", "penalty"])
def test_rows_have_independent_random_streams(name):
    rows = continued(make(), PROMPTS[:1] * 4, SAMPLINGS[name])
    assert len({tuple(row) for row in rows}) == 4


def test_greedy_outputs_do_not_depend_on_the_batch():
    thinker = make()
    alone = [continued(thinker, [prompt])[0] for prompt in PROMPTS]
    assert continued(thinker, PROMPTS) == alone
    assert continued(thinker, PROMPTS[::-1]) == alone[::-1]


@samplings
def test_fewer_tokens_are_a_prefix_of_more(sampling):
    thinker = make()
    longer = continued(thinker, PROMPTS, sampling, max_tokens=20)
    assert continued(thinker, PROMPTS, sampling, max_tokens=7) == [row[:7] for row in longer]


# ---------------------------------------------------------------- ends


def test_the_stop_token_ends_only_its_row():
    thinker = make()
    whole = continued(thinker, PROMPTS)
    stop = next(t for t in whole[0][1:6] if any(t not in row for row in whole))
    steps = list(generate(thinker, PROMPTS, max_tokens=8, stop=stop, sampling=GREEDY))
    ended = 0
    for row, free in zip(zip(*steps, strict=True), whole, strict=True):
        length = free.index(stop) + 1 if stop in free else len(free)
        assert list(row[:length]) == free[:length]  # the stop token is output
        assert row[length:] == (None,) * (len(steps) - length)
        ended += stop in free
    assert 0 < ended < len(PROMPTS)
    assert len(steps) == 8
    assert continued(thinker, PROMPTS, stop=stop) == [slowly(thinker, prompt, stop=stop) for prompt in PROMPTS]


def test_generation_ends_once_all_rows_have_ended():
    thinker = make()
    stop = continued(thinker, PROMPTS[:1])[0][0]
    assert list(generate(thinker, PROMPTS[:1] * 2, max_tokens=10, stop=stop, sampling=GREEDY)) == [[stop, stop]]


@pytest.mark.parametrize("max_tokens", [1, 2, 9])
def test_the_number_of_tokens_is_limited(max_tokens):
    assert [len(row) for row in continued(make(), PROMPTS, max_tokens=max_tokens)] == [max_tokens] * len(PROMPTS)


# ---------------------------------------------------------------- sampling


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(top_k=1, seed=5),
        Sampling(top_p=1e-6, seed=5),
        Sampling(temperature=1e-4, seed=5),
        Sampling(temperature=1e-38, seed=5),
        Sampling(temperature=0, top_k=3, top_p=0.5, seed=5),
    ],
    ids=lambda sampling: f"{sampling.temperature}-{sampling.top_k}-{sampling.top_p}",
)
def test_the_narrowest_settings_choose_the_likeliest_token(sampling):
    thinker = make()
    assert continued(thinker, PROMPTS, sampling) == continued(thinker, PROMPTS)


@samplings
def test_sampling_depends_on_the_seed_and_greedy_does_not(sampling):
    thinker, text = make(), continued(make(), PROMPTS, sampling)
    assert continued(thinker, PROMPTS, sampling) == text
    for seed in (sampling.seed + 1, sampling.seed + 2**32):
        fields = {name: getattr(sampling, name) for name in ("temperature", "top_k", "top_p", "repetition_penalty")}
        same = continued(thinker, PROMPTS, Sampling(**fields, seed=seed)) == text
        assert same == (sampling.temperature == 0), f"seed {seed}"


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.5}, {"temperature": 3.0}, {"top_k": 4}, {"top_p": 0.8}, {"top_k": 5, "top_p": 0.6}],
)
def test_sampled_tokens_have_the_right_frequencies(options):
    logits = [1.5, -1.0, 0.3, 2.0, 0.0, -3.0, 1.0, 0.5, -0.2, 1.2]
    rows = continued(constant(logits), [[0]] * 2000, Sampling(**options, seed=7), max_tokens=1)
    counts = torch.tensor(rows)[:, 0].bincount(minlength=len(logits)).double()
    wanted = (torch.tensor(logits).double() / options.get("temperature", 1.0)).softmax(0)
    ranked, held = wanted.argsort(descending=True).tolist(), 0.0
    kept = ranked[: options.get("top_k") or len(logits)]
    total = wanted[kept].sum().item()
    for count, token in enumerate(kept):
        if held >= options.get("top_p", 1.0) * total:
            kept = kept[:count]
            break
        held += wanted[token].item()
    expected = torch.zeros_like(wanted)
    expected[kept] = wanted[kept] / wanted[kept].sum()
    assert chi_square(counts, expected) < 30  # 9 degrees of freedom: 1 in 2000 by chance, and the seed is fixed


@pytest.mark.parametrize("pair", ["steps of a row", "rows beside each other"])
def test_draws_are_independent(pair):
    tokens = torch.tensor(continued(constant([0.0] * 4), [[0]] * 2001, Sampling(seed=1), max_tokens=2))
    first, second = (tokens[:, 0], tokens[:, 1]) if pair == "steps of a row" else (tokens[:-1, 0], tokens[1:, 0])
    counts = (first * 4 + second).bincount(minlength=16).double()
    assert chi_square(counts, torch.full((16,), 1 / 16)) < 40


def test_a_penalty_lowers_repeated_tokens_in_their_row_only():
    logits = torch.tensor([[3.0, 2.0, -1.0], [-1.0, -1.5, -9.0]])
    seen, draws = torch.tensor([[True, False, False], [True, False, False]]), torch.zeros(2)
    for penalty, chosen in ((1.0, [0, 0]), (1.2, [0, 0]), (2.0, [1, 1])):
        assert (
            choose_tokens(Sampling(temperature=0, repetition_penalty=penalty), logits, seen, draws).tolist() == chosen
        )
    seen[0] = False
    assert choose_tokens(Sampling(temperature=0, repetition_penalty=2.0), logits, seen, draws).tolist() == [0, 1]


def test_a_penalty_lowers_repetition_of_prompt_and_text():
    thinker = constant([5.0, 4.8, 4.6, 4.4, 4.2, 4.0, 3.8, 3.6])
    assert continued(thinker, [[3], [0]], max_tokens=5) == [[0] * 5] * 2
    penalised = Sampling(temperature=0, repetition_penalty=10.0)
    assert continued(thinker, [[3], [0]], penalised, max_tokens=5) == [[0, 1, 2, 4, 5], [1, 2, 3, 4, 5]]

    def repeats(penalty):
        rows = continued(make(), PROMPTS, Sampling(repetition_penalty=penalty, seed=1), max_tokens=25)
        return sum(len(row) - len(set(row)) for row in rows)

    assert repeats(3.0) < repeats(1.0) < repeats(0.5)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(top_k=20), Sampling(repetition_penalty=1.3)])
def test_tokens_that_the_tokenizer_lacks_are_never_output(sampling):
    thinker = constant([0.0] * 10 + [9.0] * 6)
    assert {token for row in continued(thinker, [[1]] * 20, sampling) for token in row} & set(range(10, 16))
    within = continued(thinker, [[1]] * 20, sampling, vocab_size=10)
    assert all(token < 10 for row in within for token in row)


# ---------------------------------------------------------------- errors and modes


@pytest.mark.parametrize(
    "options",
    [
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_p": float("nan")},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": -1.0},
        {"seed": -1},
        {"seed": 2**63},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_by_name(options):
    with pytest.raises(UserError, match=next(iter(options))):
        Sampling(**options)


@pytest.mark.parametrize(
    ("prompts", "options", "words"),
    [
        ([[1]], {"max_tokens": 0}, "max_tokens"),
        ([[1]], {"max_tokens": -1}, "max_tokens"),
        ([], {}, "no prompt"),
        ([[1], []], {}, "prompt 1"),
        ([[1], [2], [3, VOCAB]], {}, "prompt 2"),
        ([[5, -1]], {}, "prompt 0"),
        ([[20]], {"vocab_size": 20}, "prompt 0"),
    ],
    ids=str,
)
def test_prompts_that_cannot_be_continued_are_refused(prompts, options, words):
    with pytest.raises(UserError, match=words):
        continued(make(), prompts, **options)


def test_no_graph_is_built_and_the_callers_mode_is_kept():
    thinker, modes = make(), []
    thinker.transformer.register_forward_hook(lambda *args: modes.append(torch.is_inference_mode_enabled()))
    for _ in generate(thinker, PROMPTS, max_tokens=3, stop=NEVER):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
    assert modes == [True] * 3
    thinker(torch.tensor([[1, 2]])).logits.sum().backward()  # the model is still in train mode


@kinds
@samplings
def test_a_model_in_bfloat16_generates(options, sampling):
    rows = continued(make(**options).bfloat16(), PROMPTS, sampling, max_tokens=4)
    assert [len(row) for row in rows] == [4] * len(PROMPTS)
    assert all(0 <= token < VOCAB for row in rows for token in row)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=2)])
def test_text_is_the_decoded_tokens_and_its_pieces_join_to_it(sampling):
    tokenizer, prompts = ByteTokenizer(), ["ab", "", "é日 x"]
    thinker = make(tokenizer.vocab_size + 12)
    with torch.no_grad():
        thinker.head.weight[EOS] = 0.9 * thinker.head.weight.mean(0)  # ends the rows at different steps
    model = TextModel(thinker, tokenizer)
    tokens = [[BOS, *tokenizer.encode(prompt)] for prompt in prompts]
    rows = continued(thinker, tokens, sampling, max_tokens=12, stop=EOS, vocab_size=tokenizer.vocab_size)
    expected = [tokenizer.decode(row) for row in rows]
    assert model.generate(prompts, max_tokens=12, sampling=sampling) == expected
    assert model.generate(prompts[0], max_tokens=12, sampling=sampling) == expected[:1]
    joined = [""] * len(prompts)
    for row, text in model.stream(prompts, max_tokens=12, sampling=sampling):
        joined[row] += text
    assert joined == expected
