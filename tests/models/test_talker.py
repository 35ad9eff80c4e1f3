"""The Talker: independence of rows, conditioning, and learning of a toy language of codes."""

import copy

import pytest
import torch
import torch.nn.functional as F
from toy_talker import batch_of, learned, loss_of, make, spoken

from omni.batch import IGNORE
from omni.decoding.sampling import Sampling
from omni.decoding.sampling_options import SpeechSampling
from omni.decoding.talker import speak_codes
from omni.models.talker import MAX_ADVANCE, expand_tokens_to_characters, positions

CERTAIN = Sampling(temperature=0)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_positions_follow_the_advances():
    _, advances = spoken([1, 3])
    assert positions(advances[None])[0].tolist() == [0, 0, 1, 1, 2, 3, 3]
    assert int(advances.sum()) == 4  # start, two characters, end
    padded = F.pad(advances, (0, 2), value=IGNORE)
    assert positions(padded[None])[0].tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4]


@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch():
    talker, texts = make(), [[1, 2, 3, 4], [5], [], [3, 3, 1, 2, 5, 4, 1]]
    together = talker(**batch_of(texts))
    for row, text in enumerate(texts):
        alone = talker(**batch_of([text]))
        frames = alone.advance_logits.shape[1]
        close(together.code_logits[row, :frames], alone.code_logits[0])
        close(together.advance_logits[row, :frames], alone.advance_logits[0])


@torch.no_grad()
def test_frames_and_codebooks_are_causal():
    talker, batch = make(), batch_of([[1, 2, 3, 4]])
    whole = talker(**batch)
    changed = batch["codes"].clone()
    changed[:, 5, 1] = (changed[:, 5, 1] + 1) % 12
    other = talker(**{**batch, "codes": changed})
    assert torch.equal(other.code_logits[:, :5], whole.code_logits[:, :5])
    assert torch.equal(other.code_logits[:, 5, :2], whole.code_logits[:, 5, :2])
    assert not torch.allclose(other.code_logits[:, 5, 2], whole.code_logits[:, 5, 2], atol=1e-3)
    assert torch.equal(other.advance_logits[:, :6], whole.advance_logits[:, :6])
    assert not torch.allclose(other.advance_logits[:, 6], whole.advance_logits[:, 6], atol=1e-4)


@torch.no_grad()
def test_cached_equals_uncached():
    talker, batch = make(num_kv_heads=1), batch_of([[1, 2, 3, 4], [5, 1]])
    batch["codes"].clamp_(min=0)
    texts = talker.encode_text(batch["text"], batch["text_lengths"])
    places, cache = positions(batch["advances"]).clamp(max=texts.shape[1] - 1), talker.new_cache(2, 40)
    whole = talker(**batch)
    for frame in range(batch["codes"].shape[1]):
        before = batch["codes"][:, frame - 1] if frame else None
        state = talker.frame(before, texts[torch.arange(2), places[:, frame]], cache)
        close(talker.advance(state), whole.advance_logits[:, frame])
        close(talker.depth(state, batch["codes"][:, frame]), whole.code_logits[:, frame])


KINDS = {
    "plain": {},
    "speakers": {"num_speakers": 3},
    "thinker": {"thinker_dim": 10},
    "all": {"num_speakers": 2, "thinker_dim": 10, "num_kv_heads": 1, "dropout": 0.1, "gradient_checkpointing": True},
}


def conditions(options, batch):
    rows, time = batch["text"].shape
    speakers = torch.arange(rows) % options["num_speakers"] if "num_speakers" in options else None
    hidden = torch.randn(rows, time, 10) if "thinker_dim" in options else None
    return {**batch, "speakers": speakers, "hidden": hidden}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_every_parameter_gets_a_gradient(options):
    talker = make(**options).train()
    batch = conditions(options, batch_of([[1, 2, 3, 4], [5], [2, 2], [4, 1]]))
    loss_of(talker, batch).backward()
    assert [name for name, p in talker.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_gradient_checkpointing_changes_nothing():
    batch, gradients = batch_of([[1, 2, 3, 4], [5]]), []
    for checkpointed in (False, True):
        talker = make(gradient_checkpointing=checkpointed).train()
        torch.manual_seed(3)  # seed of the noise
        loss_of(talker, batch).backward()
        gradients.append({name: p.grad for name, p in talker.named_parameters()})
    for name, gradient in gradients[0].items():
        close(gradients[1][name], gradient)


@torch.no_grad()
def test_outputs_depend_on_speaker_and_thinker():
    talker = make(num_speakers=3, thinker_dim=10)
    batch = batch_of([[1, 2, 3]])
    first, second = (talker(**batch, speakers=torch.tensor([n])).code_logits for n in (0, 1))
    assert not torch.allclose(first, second, atol=1e-2)
    told = talker(**batch, speakers=torch.tensor([0]), hidden=torch.randn(1, 3, 10)).code_logits
    assert not torch.allclose(first, told, atol=1e-2)
    nothing = talker(**batch, speakers=torch.tensor([0]), hidden=torch.zeros(1, 3, 10)).code_logits
    close(nothing, first)


@torch.no_grad()
def test_the_thinker_is_dropped_in_some_rows_of_training_only():
    talker = make(thinker_dim=10, thinker_dropout=0.5, code_noise=0.0)
    batch = batch_of([[1, 2, 3]] * 40)
    hidden = torch.randn(1, 3, 10).expand(40, -1, -1)
    alone = talker(**batch).advance_logits
    for training in (True, False):
        talker.train(training)
        without = (talker(**batch, hidden=hidden).advance_logits - alone).abs().amax((1, 2)) < 1e-5
        assert 5 < int(without.sum()) < 35 if training else not without.any()


def test_missing_conditions_are_refused():
    batch = batch_of([[1, 2]])
    with pytest.raises(ValueError, match="3 speakers"):
        make(num_speakers=3)(**batch)
    with pytest.raises(ValueError, match="0 speakers"):
        make()(**batch, speakers=torch.tensor([0]))
    with pytest.raises(ValueError, match="thinker_dim"):
        make()(**batch, hidden=torch.zeros(1, 2, 4))
    with pytest.raises(ValueError, match="code_noise"):
        make(code_noise=1.5)


def test_noise_changes_inputs_of_training_only():
    talker, batch = make(code_noise=0.4), batch_of([[1, 2, 3]])
    quiet, again = talker(**batch), talker(**batch)
    assert torch.equal(quiet.code_logits, again.code_logits)
    noisy = talker.train()(**batch)
    assert torch.equal(noisy.code_logits[:, 0], quiet.code_logits[:, 0])  # the first frame has no previous one
    assert not torch.allclose(noisy.code_logits, quiet.code_logits, atol=1e-2)


def test_hidden_states_are_spread_over_the_characters_of_their_tokens():
    hidden = torch.arange(6.0).view(2, 3, 1) + 1
    out = expand_tokens_to_characters(hidden, torch.tensor([[2, 1, 0], [1, 3, 1]]))
    assert out[..., 0].tolist() == [[1, 1, 2, 0, 0], [4, 5, 5, 5, 6]]


def test_the_advance_per_frame_is_limited():
    assert make()(**batch_of([[1]])).advance_logits.shape[-1] == MAX_ADVANCE + 1


@torch.no_grad()
def test_a_toy_language_is_learned():
    talker, texts = learned()
    assert loss_of(talker, batch_of(texts)) < 0.05


@torch.no_grad()
def test_shuffled_text_raises_the_loss():
    talker, texts = learned()
    texts = [text for text in texts if len(set(text)) > 2]
    batch = batch_of(texts)
    shuffled = batch_of([text[1:] + text[:1] for text in texts])
    assert loss_of(talker, {**batch, "text": shuffled["text"]}) > loss_of(talker, batch) + 1


def test_half_precision_is_close_and_generates():
    talker, texts = learned()
    certain = SpeechSampling(first=CERTAIN, rest=CERTAIN, pace=CERTAIN)
    with torch.autocast("cpu", torch.bfloat16):
        assert loss_of(talker, batch_of(texts)) < 0.1
        said = speak_codes(talker, texts[:4], sampling=certain)
    assert all(torch.equal(codes, spoken(text)[0]) for codes, text in zip(said, texts[:4], strict=True))
    half = copy.deepcopy(talker).bfloat16()
    assert all(codes.shape[1] == 3 for codes in speak_codes(half, texts[:2]))
