"""Omni: features replace their placeholders only, text is unchanged, rows are independent."""

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from toy_omni import PROJECTORS, TOKENIZER, image, inputs, laid, mel, toy_omni, user

from omni.decoding.sampling import Sampling, generate
from omni.errors import UserError
from omni.layers.rotary import RotaryEmbedding
from omni.models.omni import Omni, place
from omni.models.projector import MLPProjector
from omni.models.thinker import Thinker
from omni.text.chat_template import ChatTokens, encode_chat
from omni.text.media_positions import MediaLayout, expand_placeholders
from omni.text.tokenizer import AUDIO, AUDIO_START, BOS, END, IMAGE, IMAGE_START

CONVERSATIONS = {
    "an image": ([user(image(0), "what?"), {"role": "assistant", "content": "red"}], [image(0)]),
    "audio": ([user("hear", mel(1, 37))], [mel(1, 37)]),
    "text": ([user("just this")], []),
    "both, and several": (
        [user(mel(2, 20), image(3), "so?", image(4)), {"role": "assistant", "content": "no"}, user(mel(5, 60))],
        [mel(2, 20), image(3), image(4), mel(5, 60)],
    ),
}


def close(actual, expected, tolerance=1e-4):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def batch_of(omni, names):
    """Rows padded together, and their media in order."""
    rows = [laid(omni, *CONVERSATIONS[name]) for name in names]
    tokens = pad_sequence([row.tokens for row in rows], batch_first=True)
    positions = pad_sequence([row.positions.T for row in rows], batch_first=True).permute(2, 0, 1)
    return rows, tokens, positions, inputs([one for name in names for one in CONVERSATIONS[name][1]])


# ---------------------------------------------------------------- the projector


@pytest.mark.parametrize("kind", ["linear", "mlp", "swiglu"])
@pytest.mark.parametrize("loudness", [0.01, 1.0, 50.0])
def test_projectors_have_the_rms_of_token_embeddings(kind, loudness):
    torch.manual_seed(0)
    projector = PROJECTORS[kind](in_dim=24, out_dim=32)
    projector.calibrate(0.37)
    out = projector(loudness * torch.randn(3, 50, 24)).tokens
    assert out.shape == (3, 50, 32)
    assert abs(float(out.detach().square().mean().sqrt()) - 0.37) < 0.01


def test_each_position_has_its_own_vector_and_the_rms_is_kept():
    torch.manual_seed(0)
    projector = MLPProjector(in_dim=24, out_dim=32, learned_positions=6)
    projector.calibrate(0.3)
    alike = projector(torch.randn(1, 1, 24).expand(200, 6, 24)).tokens
    assert torch.equal(alike[0], alike[1])
    assert len(alike[0].unique(dim=0)) == 6
    loud = projector(torch.randn(400, 6, 24)).tokens
    assert loud.square().mean().sqrt().item() == pytest.approx(0.3, rel=0.2)
    alike.sum().backward()
    assert projector.learned_positions is not None
    assert projector.learned_positions.grad is not None
    with pytest.raises(ValueError, match="learned_positions must be 0 or more, not -1"):
        MLPProjector(in_dim=24, out_dim=32, learned_positions=-1)


def test_positions_of_a_square_start_symmetric_in_rows_and_columns():
    torch.manual_seed(0)
    positions = MLPProjector(in_dim=24, out_dim=512, learned_positions=16).learned_positions
    assert positions is not None
    grid = positions.detach().view(4, 4, -1)
    torch.testing.assert_close(grid[0, 0] - grid[0, 3], grid[2, 0] - grid[2, 3])
    torch.testing.assert_close(grid[0, 1] - grid[3, 1], grid[0, 2] - grid[3, 2])
    assert grid.square().mean().item() == pytest.approx(1, rel=0.2)
    alike = torch.nn.functional.cosine_similarity(grid[0, 0], grid[1:, 1:], dim=-1).abs()
    assert alike.max() < 0.3 < torch.nn.functional.cosine_similarity(grid[0, 0], grid[0, 1], dim=0)


def test_calibration_uses_the_rms_of_embeddings():
    omni = toy_omni()
    for projector in (omni.vision_projector, omni.audio_projector):
        assert float(projector.scale) == pytest.approx(omni.thinker.embedding_rms)
    assert float(omni.audio_projector.scale) == pytest.approx(0.3, abs=0.02)


@torch.no_grad()
def test_frame_stacking_reduces_frames_and_ignores_padding():
    projector = MLPProjector(in_dim=8, out_dim=16, frame_stacking=3)
    features = torch.randn(2, 10, 8)
    out = projector(features, torch.tensor([10, 4])).tokens
    assert out.shape == (2, 4, 16)
    close(out[1, :2], projector(features[1:, :4], torch.tensor([4])).tokens[0])
    features[1, 4:] = 100.0
    close(projector(features, torch.tensor([10, 4])).tokens[1, :2], out[1, :2])


# ---------------------------------------------------------------- positions


def test_text_has_the_positions_of_one_axis():
    chat = encode_chat(TOKENIZER, [user("some text"), {"role": "assistant", "content": "more"}])
    positions = expand_placeholders(chat, []).positions
    assert positions.tolist() == [list(range(len(chat.tokens)))] * 3


def test_media_have_positions_in_time_height_and_width():
    layout = MediaLayout(image_grid=(2, 3), mel_frames=8)
    parts = [{"type": "text", "text": "ab"}, {"type": "image"}, {"type": "audio"}, {"type": "text", "text": "c"}]
    chat = encode_chat(TOKENIZER, [{"role": "user", "content": parts}])
    row = expand_placeholders(chat, [layout.image(), layout.audio(24)])
    first = row.tokens.tolist().index(IMAGE)
    time, height, width = row.positions[:, first : first + 6].tolist()
    assert time == [5.0] * 6  # after bos, user, a, b, image_start
    assert height == [5, 5, 5, 6, 6, 6]
    assert width == [5, 6, 7] * 2
    assert row.positions[:, first + 6].tolist() == [8.0] * 3  # image_end, after the largest position
    heard = row.tokens.tolist().index(AUDIO)
    assert row.positions[:, heard : heard + 3].tolist() == [[10, 11, 12]] * 3  # 80 ms each
    assert row.positions[:, heard + 3].tolist() == [13.0] * 3


def test_audio_positions_are_times_for_any_frame_rate():
    assert MediaLayout(mel_frames=16).audio(64).offsets[0].tolist() == [0, 2, 4, 6]
    assert MediaLayout(mel_frames=4).audio(10).offsets[0].tolist() == [0, 0.5, 1]
    assert MediaLayout(mel_frames=4).audio(10).extent == 2


def test_frames_of_a_video_have_their_times():
    span = MediaLayout(image_grid=(1, 2)).video((0.0, 0.4, 2.0))
    assert span.offsets[0].tolist() == pytest.approx([0, 0, 5, 5, 25, 25])
    assert span.offsets[2].tolist() == [0, 1] * 3
    assert span.extent == 26


def test_rotary_positions_of_text_equal_those_of_one_axis_exactly():
    positions = torch.arange(9).float()
    for one, three in zip(
        RotaryEmbedding(16)(torch.arange(9)), RotaryEmbedding(16, num_axes=3)(positions.repeat(3, 1, 1)), strict=True
    ):
        assert torch.equal(one, three)


@pytest.mark.parametrize("spans", [0, 2])
def test_more_or_fewer_media_than_placeholders_are_refused(spans):
    layout = MediaLayout(image_grid=(2, 2))
    chat = encode_chat(TOKENIZER, [user(image(0), "what?")])
    with pytest.raises(UserError, match=f"1 placeholders for {spans} media"):
        expand_placeholders(chat, [layout.image()] * spans)


@pytest.mark.parametrize(("medium", "sense"), [("image", "vision"), ("audio", "audio")])
def test_media_without_an_encoder_are_refused_in_layout(medium, sense):
    with pytest.raises(UserError, match=f"the model has no {sense} encoder"):
        MediaLayout().image() if medium == "image" else MediaLayout().audio(10)


# ---------------------------------------------------------------- features and their places


@torch.no_grad()
@pytest.mark.parametrize("frame_stacking", [1, 2])
def test_features_replace_exactly_their_placeholders(frame_stacking):
    omni = toy_omni(frame_stacking=frame_stacking)
    rows, tokens, _, media = batch_of(omni, list(CONVERSATIONS))
    x = omni.embed(tokens, **media).embeddings
    plain = omni.thinker.embed(tokens)
    slots = (tokens == IMAGE) | (tokens == AUDIO)
    assert torch.equal(x[~slots], plain[~slots])
    for number, (row, name) in enumerate(zip(rows, CONVERSATIONS, strict=True)):
        ids, at = row.tokens.tolist(), 0
        for one in CONVERSATIONS[name][1]:
            if one.dim() == 3:
                features = omni.vision_projector(omni.vision_encoder.tokens(one[None])).tokens[0]
                start = IMAGE_START
            else:
                heard = omni.audio_encoder(one[None], torch.tensor([len(one)]))
                features, start = omni.audio_projector(heard.hidden, heard.lengths).tokens[0], AUDIO_START
            at = ids.index(start, at) + 1
            close(x[number, at : at + len(features)], features)
            assert not slots[number, at + len(features)]


def test_slots_must_fit_the_features():
    x, features = torch.zeros(2, 6, 4), torch.ones(2, 3, 4)
    slots = torch.zeros(2, 6, dtype=torch.bool)
    slots[0, :3] = slots[1, 2:4] = True
    assert place(x, slots, features, torch.tensor([3, 2])).sum() == 5 * 4
    with pytest.raises(RuntimeError, match="more or fewer placeholders"):
        place(x, slots, features, torch.tensor([3, 3]))
    with pytest.raises(RuntimeError, match="counts differ"):
        place(x, slots, features, torch.tensor([2, 3]))


@torch.no_grad()
def test_text_only_equals_the_thinker_exactly():
    omni = toy_omni()
    _, tokens, positions, _ = batch_of(omni, ["text"])
    alone = omni.thinker(tokens).logits
    assert torch.equal(
        omni.thinker.logits(omni.encode(omni.embed(tokens).embeddings, positions=positions).hidden), alone
    )
    single = Thinker(vocab_size=288, dim=32, num_layers=2, num_heads=4, ffn_dim=48, rope_axes=1).eval()
    single.load_state_dict(omni.thinker.state_dict())
    assert torch.equal(single(tokens).logits, alone)


@torch.no_grad()
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_row_does_not_depend_on_the_others(name):
    omni = toy_omni()
    (row,), tokens, positions, media = batch_of(omni, [name])
    alone = omni.encode(omni.embed(tokens, **media).embeddings, positions=positions).hidden[0]
    names = [*CONVERSATIONS]
    _, tokens, positions, media = batch_of(omni, names)
    together = omni.encode(omni.embed(tokens, **media).embeddings, positions=positions).hidden[names.index(name)]
    close(together[: len(row.tokens)], alone)


@torch.no_grad()
def test_the_position_of_patches_matters():
    omni = toy_omni()
    _, tokens, positions, media = batch_of(omni, ["an image"])
    x = omni.embed(tokens, **media).embeddings
    flat = torch.arange(tokens.shape[1]).float().expand(3, 1, -1)
    seen, counted = (omni.encode(x, positions=one).hidden[:, -1] for one in (positions, flat))
    assert (seen - counted).abs().max() > 1e-3


@torch.no_grad()
def test_a_thinker_of_one_axis_counts_its_tokens():
    omni = toy_omni(rope_axes=1)
    _, tokens, positions, media = batch_of(omni, ["an image"])
    x = omni.embed(tokens, **media).embeddings
    assert torch.equal(omni.encode(x, positions=positions).hidden, omni.thinker.encode(embeddings=x).hidden)


def test_every_weight_of_the_media_path_gets_a_gradient():
    omni = toy_omni().train()
    _, tokens, positions, media = batch_of(omni, ["both, and several"])
    omni.encode(omni.embed(tokens, **media).embeddings, positions=positions).hidden.square().sum().backward()
    missing = {name for name, parameter in omni.named_parameters() if parameter.grad is None}
    assert all(name.startswith("audio_encoder.head") for name in missing)
    assert all(parameter.grad.abs().sum() > 0 for parameter in omni.parameters() if parameter.grad is not None)


def test_media_without_an_encoder_are_refused():
    omni = toy_omni()
    blind = Omni(omni.thinker)
    with pytest.raises(ValueError, match="no vision_encoder"):
        blind.embed(torch.tensor([[BOS, IMAGE]]), images=image(0)[None])
    with pytest.raises(ValueError, match="no audio_encoder"):
        blind.embed(torch.tensor([[BOS, AUDIO]]), mels=mel(0, 8)[None], mel_lengths=torch.tensor([8]))


def test_parts_that_do_not_fit_are_refused():
    omni = toy_omni()
    with pytest.raises(ValueError, match="belong together"):
        Omni(omni.thinker, vision_encoder=omni.vision_encoder)
    with pytest.raises(ValueError, match="in_dim must be 24"):
        Omni(omni.thinker, vision_encoder=omni.vision_encoder, vision_projector=MLPProjector(in_dim=23, out_dim=32))
    wide = MLPProjector(in_dim=24, out_dim=32, frame_stacking=2)
    with pytest.raises(ValueError, match="frame_stacking must be 1"):
        Omni(omni.thinker, vision_encoder=omni.vision_encoder, vision_projector=wide)


# ---------------------------------------------------------------- decoding


@torch.no_grad()
@pytest.mark.parametrize("rope_axes", [1, 3])
def test_cached_ragged_decoding_equals_recomputation(rope_axes):
    omni = toy_omni(rope_axes=rope_axes)
    names = [*CONVERSATIONS]
    rows, tokens, positions, media = batch_of(omni, names)
    said = [[] for _ in rows]
    steps = generate(
        omni.thinker,
        [row.tokens.tolist() for row in rows],
        embeddings=omni.embed(tokens, **media).embeddings,
        positions=omni.rotary_positions(positions),
        max_tokens=6,
        stop=END,
        sampling=Sampling(temperature=0),
    )
    for step in steps:
        for one, token in zip(said, step, strict=True):
            one += [] if token is None else [token]
    for name, row, heard in zip(names, rows, said, strict=True):
        x = omni.embed(row.tokens[None], **inputs(CONVERSATIONS[name][1])).embeddings
        where = row.positions[:, None]
        for token in heard:
            hidden = omni.encode(x, positions=where).hidden[:, -1]
            assert int(omni.thinker.logits(hidden).argmax()) == token
            x = torch.cat((x, omni.thinker.embed(torch.tensor([[token]]))), dim=1)
            where = torch.cat((where, where[..., -1:] + 1), dim=-1)
    assert len({tuple(one) for one in said}) > 1


@torch.no_grad()
@pytest.mark.parametrize("known", [[0, 0], [3, 3], [8, 6]])
def test_decoding_continues_from_a_cached_prefix(known):
    thinker = toy_omni().thinker
    prompts = [[BOS, *range(40, 48)], [BOS, *range(60, 66)]]
    options = {"max_tokens": 5, "stop": END, "sampling": Sampling(temperature=0, repetition_penalty=1.3)}
    cache = thinker.new_cache(2, 14)
    thinker.encode(torch.tensor([prompts[0], [*prompts[1], 0, 0]]), cache=cache)
    cache.advance(known)
    if known[0] == known[1] == 3:  # extended, and truncated again
        thinker.encode(torch.full((2, 4), 99), cache=cache)
        cache.advance(4)
        cache.keep(3)
    assert [*generate(thinker, prompts, cache=cache, **options)] == [*generate(thinker, prompts, **options)]


def test_a_chat_without_media_is_unchanged():
    row = expand_placeholders(ChatTokens([BOS, 40, END], [False, False, True]), [])
    assert row.tokens.tolist() == [BOS, 40, END]
    assert row.scored.tolist() == [False, False, True]
