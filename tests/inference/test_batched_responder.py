"""Answers that are generated together equal those alone; rows join, leave and are reused."""

import pytest
import torch
from test_assistant import SAMPLED, asked, picture, said, sound
from toy_assistant import assistant_of
from toy_omni import TOKENIZER, toy_omni
from toy_pretrained import llm

from omni import Assistant
from omni.decoding.sampling import Sampling
from omni.errors import UserError
from omni.inference.batched_responder import BatchedResponder
from omni.inference.prompt import reusable
from omni.inference.responder import Responder
from omni.media.images import Preprocessing
from omni.models.omni import Omni
from omni.models.pretrained.thinker import PretrainedThinker
from omni.models.pretrained.tokenizer import PretrainedTokenizer
from omni.models.thinker import Thinker
from omni.text.tokenizer import IMAGE

SAMPLINGS = {
    "greedy": [None],
    "sampled": [SAMPLED, Sampling(temperature=2.0, seed=1)],
    "mixed": [
        None,
        Sampling(temperature=1.5, top_k=6, seed=2),
        Sampling(temperature=1.5, top_p=0.8, seed=3),
        Sampling(temperature=1.5, top_p=0.8, seed=4),
        Sampling(temperature=0, repetition_penalty=1.5),
        Sampling(repetition_penalty=2.0, seed=5),
    ],
}
QUESTIONS = [
    [asked("a")],
    [asked(picture(1), "what is this?")],
    [asked("a longer question, with more words"), said("yes"), asked("why?")],
    [asked(sound("abc"))],
    [asked(picture(2), sound("ba"), "both?")],
    [asked("b?"), said("ab"), asked(picture(3), "and this?")],
    [asked("a")],
    [asked(sound("cab"), "so?")],
]
TOKENS_PER_IMAGE = 4
LENGTHS = [1, 12, 25, 7, 18, 9, 30, 14]


@pytest.fixture(scope="module", params=[1, 3], ids=["one axis", "three axes"])
def assistant(request):
    return assistant_of(toy_omni(rope_axes=request.param), context=300)


def alone(assistant, prompt, **options):
    """The answer of a new Responder."""
    one = assistant.responder
    responder = Responder(one.omni, one.tokenizer, context=one.context, stop=one.stop)
    return "".join(responder.stream(prompt, **options))


def count_embedded(monkeypatch):
    """A list that receives the number of tokens of each prompt that is computed."""
    computed, embed = [], Responder.embed

    def counted(self, prompts):
        computed.append(max(len(one.encoded.tokens) for one in prompts))
        return embed(self, prompts)

    monkeypatch.setattr(Responder, "embed", counted)
    return computed


def text_of(answer):
    return "".join(answer.pieces)


def requests(assistant, samplings):
    for number, (messages, max_tokens) in enumerate(zip(QUESTIONS, LENGTHS, strict=True)):
        options = {"max_tokens": max_tokens, "sampling": samplings[number % len(samplings)]}
        yield assistant.prompt(messages, max_tokens=max_tokens), options


def run(batched, given, every=0):
    """The answers to all requests, one submitted each `every` steps or all at once, and the most rows that ran."""
    answers, waiting, step, most = [], list(given), 0, 0
    while waiting or batched.busy:
        while waiting and step >= every * len(answers):
            prompt, options = waiting.pop(0)
            answers.append(batched.submit(prompt, **options))
        batched.step()
        step, most = step + 1, max(most, batched.num_running)
    return answers, most


# ---------------------------------------------------------------- equal to one alone


@pytest.mark.parametrize("samplings", SAMPLINGS.values(), ids=SAMPLINGS)
@pytest.mark.parametrize(("rows", "every"), [(1, 0), (3, 0), (3, 2), (8, 3)])
def test_answers_together_equal_those_alone(assistant, samplings, rows, every):
    given = list(requests(assistant, samplings))
    answers, most = run(BatchedResponder(assistant.responder, rows=rows), given, every)
    expected = [alone(assistant, prompt, **options) for prompt, options in given]
    assert [text_of(one) for one in answers] == expected
    assert len(set(expected)) > 5
    assert most == min(rows, most) > (rows > 1)
    for answer, limit in zip(answers, LENGTHS, strict=True):
        assert answer.finish_reason == ("stop" if answer.tokens[-1] == assistant.responder.stop else "length")
        assert answer.num_tokens == limit or answer.finish_reason == "stop"


def test_a_mixture_of_experts_answers_as_alone():
    omni = toy_omni()
    torch.manual_seed(0)
    options = {"vocab_size": 288, "dim": 32, "num_layers": 2, "num_heads": 4, "ffn_dim": 48, "rope_axes": 3}
    omni.thinker = Thinker(**options, num_experts=4, num_kv_heads=2).eval()
    model = assistant_of(omni, context=300)
    given = list(requests(model, SAMPLINGS["mixed"]))
    answers, _ = run(BatchedResponder(model.responder, rows=4), given)
    assert [text_of(one) for one in answers] == [alone(model, prompt, **options) for prompt, options in given]


def test_pieces_join_to_the_text_and_end_at_characters():
    omni = toy_omni()  # any byte: most are not characters
    model = Assistant(omni, TOKENIZER, preprocessing=Preprocessing(16), context=300)
    given = list(requests(model, [SAMPLED]))
    answers, _ = run(BatchedResponder(model.responder, rows=4), given)
    assert [text_of(one) for one in answers] == [alone(model, prompt, **options) for prompt, options in given]
    assert all(piece for one in answers for piece in one.pieces)


# ---------------------------------------------------------------- rows


def test_a_cancelled_answer_frees_its_row_before_the_next_step(assistant):
    batched = BatchedResponder(assistant.responder, rows=2)
    (first, short), (second, _), (third, options) = list(requests(assistant, [None]))[2:5]
    expected = alone(assistant, third, **options)
    going, ending, waiting = (
        batched.submit(one, max_tokens=40, sampling=SAMPLED) if one is not third else batched.submit(one, **options)
        for one in (first, second, third)
    )
    for _ in range(3):
        batched.step()
    assert (batched.num_running, batched.num_waiting, waiting.num_tokens) == (2, 1, 0)
    going.cancel()
    kept = text_of(going)
    batched.step()
    assert (going.finish_reason, text_of(going), going.num_tokens) == ("cancelled", kept, 3)
    assert (batched.num_running, batched.num_waiting, waiting.num_tokens, ending.num_tokens) == (2, 0, 1, 4)
    ending.cancel()
    while batched.busy:
        batched.step()
    assert text_of(waiting) == expected
    assert short["max_tokens"] > 3


def test_an_answer_cancelled_while_it_waits_never_runs(assistant):
    batched = BatchedResponder(assistant.responder, rows=1)
    first, second = (batched.submit(prompt, **options) for prompt, options in list(requests(assistant, [None]))[:2])
    second.cancel()
    assert batched.num_waiting == 1
    batched.step()
    assert not batched.busy
    assert (first.num_tokens, second.num_tokens, second.finish_reason) == (1, 0, "cancelled")
    second.cancel()
    first.cancel()
    assert first.finish_reason == "length"  # it had ended before


def test_starting_prompts_are_bounded_so_that_running_answers_are_not_held_up(assistant, monkeypatch):
    monkeypatch.setattr("omni.inference.batched_responder.PREFILL_TOKENS", 30)
    batched = BatchedResponder(assistant.responder, rows=8)
    prompts = [assistant.prompt([asked("twelve chars")], max_tokens=9) for _ in range(4)]
    tokens = len(prompts[0].tokens)
    assert 10 < tokens <= 30 < 2 * tokens
    for prompt in prompts:
        batched.submit(prompt, max_tokens=9)
    started = []
    for _ in range(4):
        batched.step()
        started.append(batched.num_running)
    assert started == [1, 2, 3, 4]
    batched.submit(assistant.prompt([asked("longer than all that may start in a step")]), max_tokens=9)
    batched.step()
    assert batched.num_running == 5


def test_the_next_turn_computes_only_what_is_new(assistant, monkeypatch):
    computed = count_embedded(monkeypatch)
    batched = BatchedResponder(assistant.responder, rows=3)
    history = [asked(picture(1), "what is this?")]
    first = batched.submit(assistant.prompt(history), max_tokens=12)
    others = [batched.submit(assistant.prompt([asked(text)]), max_tokens=3) for text in ("other one", "third one")]
    while batched.busy:
        batched.step()
    history += [said(text_of(first)), asked("and now?")]
    prompt = assistant.prompt(history)
    expected = alone(assistant, prompt, max_tokens=10)
    computed.clear()
    again = batched.submit(prompt, max_tokens=10)
    while batched.busy:
        batched.step()
    assert text_of(again) == expected
    assert computed[0] < len(prompt.tokens) - len(first.prompt.tokens) - 8
    assert all(one.finish_reason for one in others)


def test_a_prefix_is_copied_from_a_running_row_and_a_medium_is_never_split(assistant, monkeypatch):
    computed = count_embedded(monkeypatch)
    system = {"role": "system", "content": "answer with few words and be kind"}
    pairs = [(picture(1), "what?"), (picture(1), "where?"), (picture(2), "what?"), (picture(1), "what?")]
    prompts = [assistant.prompt([system, asked(*pair)]) for pair in pairs]
    expected = [alone(assistant, prompt, max_tokens=20) for prompt in prompts]
    computed.clear()
    batched, answers = BatchedResponder(assistant.responder, rows=4), []
    for prompt in prompts:
        answers.append(batched.submit(prompt, max_tokens=20))
        batched.step()
    assert batched.num_running == 4
    while batched.busy:
        batched.step()
    assert [text_of(one) for one in answers] == expected
    shared = prompts[0].tokens.index(IMAGE)
    after = [len(prompt.tokens) - shared for prompt in prompts]
    assert computed[0] == len(prompts[0].tokens)
    assert computed[1] < after[1] - TOKENS_PER_IMAGE
    assert computed[2] == after[2]  # another picture
    assert computed[3] == 1


def test_a_conversation_keeps_its_row_while_older_ones_are_free(assistant, monkeypatch):
    computed = count_embedded(monkeypatch)
    batched = BatchedResponder(assistant.responder, rows=3)
    long = "a conversation of many words, worth keeping"
    for text in ("b", "c", long, "a conversation"):  # the last one shares the start of the third
        prompt = assistant.prompt([asked(text)], max_tokens=4)
        batched.submit(prompt, max_tokens=4)
        while batched.busy:
            batched.step()
    assert computed[3] < len(prompt.tokens)
    prompt = assistant.prompt([asked(long + " and more")], max_tokens=4)
    answer = batched.submit(prompt, max_tokens=4)
    batched.step()
    assert computed[-1] == len(prompt.tokens) - reusable(assistant.prompt([asked(long)]).keys(), prompt.keys())
    while batched.busy:
        batched.step()
    assert text_of(answer) == alone(assistant, prompt, max_tokens=4)


# ---------------------------------------------------------------- errors


def test_a_prompt_that_cannot_be_encoded_fails_alone(assistant):
    batched = BatchedResponder(assistant.responder, rows=4)
    given = list(requests(assistant, [None]))
    prompt = given[1][0]
    medium = prompt.media[0]._replace(images=(torch.zeros(3, 9, 9, dtype=torch.uint8),))  # not the encoder's size
    broken = prompt._replace(media=(medium,))
    answers = [batched.submit(*given[2][:1], **given[2][1])]
    batched.step()
    failing = batched.submit(broken, max_tokens=5)
    answers += [batched.submit(prompt, **options) for prompt, options in given[3:5]]
    with pytest.raises(ValueError, match="patches"):
        batched.step()
    assert (failing.finish_reason, failing.num_tokens) == ("cancelled", 0)
    assert isinstance(failing.error, ValueError)
    while batched.busy:
        batched.step()
    assert [text_of(one) for one in answers] == [alone(assistant, prompt, **options) for prompt, options in given[2:5]]
    assert all(one.error is None for one in answers)


def test_limits_are_checked_before_anything_runs(assistant):
    batched, prompt = BatchedResponder(assistant.responder, rows=1), assistant.prompt([asked("a")])
    with pytest.raises(UserError, match="max_tokens"):
        batched.submit(prompt, max_tokens=0)
    with pytest.raises(UserError, match="context is 300"):
        batched.submit(prompt, max_tokens=302 - len(prompt.tokens))
    longest = batched.submit(prompt, max_tokens=301 - len(prompt.tokens), sampling=SAMPLED)
    while batched.busy:
        batched.step()
    assert longest.finish_reason
    with pytest.raises(ValueError, match="rows"):
        BatchedResponder(assistant.responder, rows=0)


# ---------------------------------------------------------------- precision and other models


def test_in_bfloat16_answers_together_are_those_alone_where_no_two_tokens_tie():
    omni = toy_omni()
    omni.thinker.bfloat16()
    model = Assistant(omni, TOKENIZER, preprocessing=Preprocessing(16), context=300)
    given = list(requests(model, [Sampling(temperature=0.7, seed=1)]))
    answers, _ = run(BatchedResponder(model.responder, rows=4), given)
    expected = [alone(model, prompt, **options) for prompt, options in given]
    assert [text_of(one) for one in answers] == expected


@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
@pytest.mark.parametrize("every", [0, 3])
def test_rows_of_a_pretrained_model_join_and_leave(tmp_path, kind, every):
    source = llm(tmp_path / kind, kind)
    thinker = PretrainedThinker(source=source, dtype="float32")
    tokenizer = PretrainedTokenizer(source)
    model = Assistant(Omni(thinker).eval(), tokenizer, context=200, template="model")
    texts = ["a", "the red star is above", "1 2 3", "ab bc ca abc ab bc ca abc", "c"]
    samplings = [None, Sampling(seed=1), None, Sampling(seed=2), None]
    given = [
        (model.prompt([asked(text)], max_tokens=number), {"max_tokens": number, "sampling": sampling})
        for text, number, sampling in zip(texts, (12, 5, 20, 14, 3), samplings, strict=True)
    ]
    answers, most = run(BatchedResponder(model.responder, rows=3), given, every)
    assert [text_of(one) for one in answers] == [alone(model, prompt, **options) for prompt, options in given]
    assert most > 1
