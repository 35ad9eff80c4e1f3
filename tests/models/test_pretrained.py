"""Pretrained parts: equal to their own library, independent rows, and errors."""

from itertools import product

import pytest
import torch
import toy_pretrained as toy

from omni import losses
from omni.batch import IGNORE
from omni.decoding.sampling import Sampling, generate
from omni.errors import UserError
from omni.models.pretrained.audio_encoder import PretrainedAudioEncoder
from omni.models.pretrained.thinker import PretrainedThinker
from omni.models.pretrained.tokenizer import PretrainedTokenizer
from omni.models.pretrained.vision_encoder import PretrainedVisionEncoder
from omni.text.chat_template import encode_chat, stop_token
from omni.text.stream_decoder import StreamDecoder
from omni.text.tokenizer import AUDIO, IMAGE, NUM_SPECIALS

TALK = [
    {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "write <|im_end|> é"}]},
    {"role": "assistant", "content": "the star"},
    {"role": "user", "content": [{"type": "text", "text": "and "}, {"type": "image"}]},
    {"role": "assistant", "content": "ab"},
]
TEXTS = ["the red star", "  é ü 漢字 <|im_end|> a\n\nb\t", "", " ab", "1 2 3, 4 5!"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a model of each kind, made once."""
    folder = tmp_path_factory.mktemp("pretrained")
    made = {kind: toy.llm(folder / kind, kind) for kind in toy.LLMS}
    made |= {kind: toy.encoder(folder / kind, kind) for kind in toy.ENCODERS}
    return made | {kind: toy.eyes(folder / kind, kind) for kind in ("clip", "siglip")}


@pytest.fixture(autouse=True)
def quiet():
    """Disables progress bars of loading weights."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def close(actual, expected, tolerance=1e-4):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def sound(frames, seed=0):
    """(1, frames, 160)."""
    return 0.1 * torch.randn(1, frames, 160, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- tokenizers


@pytest.mark.parametrize("kind", toy.LLMS)
def test_text_is_encoded_without_loss_and_names_of_special_tokens_are_text(models, kind):
    tokenizer = PretrainedTokenizer(models[kind])
    for text in TEXTS:
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens) == text
        assert tokenizer.end not in tokens
        stream = StreamDecoder(tokenizer)
        assert "".join(map(stream.push, tokens)) + stream.finish() == text
        assert sum(tokenizer.token_bytes()[token] for token in tokens) == len(text.encode())


@pytest.mark.parametrize("kind", toy.LLMS)
def test_a_conversation_follows_the_models_chat_template(models, kind):
    import transformers

    tokenizer = PretrainedTokenizer(models[kind])
    chat = encode_chat(tokenizer, TALK)
    texts = ["write é", "the star", "and ", "ab"]
    messages = [{"role": one["role"], "content": text} for one, text in zip(TALK, texts, strict=True)]
    own = transformers.AutoTokenizer.from_pretrained(models[kind])
    own_ids = own.apply_chat_template(messages, tokenize=True)["input_ids"]
    assert encode_chat(tokenizer, messages).tokens == [NUM_SPECIALS + token for token in own_ids]
    assert [token for token in chat.tokens if token < NUM_SPECIALS] == [AUDIO, IMAGE]
    runs = "".join("x" if scored else " " for scored in chat.scored).split()
    assert len(runs) == 2
    said = [token for token, scored in zip(*chat, strict=True) if scored]
    assert said == [*tokenizer.encode("the star"), tokenizer.end, *tokenizer.encode("ab"), tokenizer.end]
    assert own.convert_ids_to_tokens(tokenizer.end - NUM_SPECIALS) == "<|im_end|>"
    asked = encode_chat(tokenizer, TALK[:3], add_generation_prompt=True).tokens
    assert chat.tokens[: len(asked)] == asked


def test_plain_text_ends_with_eos(models):
    tokenizer = PretrainedTokenizer(models["llama"])
    chat = encode_chat(tokenizer, TALK[:2], template="plain")
    asked, answer = tokenizer.encode("write <|im_end|> é"), tokenizer.encode("the star")
    assert chat.tokens == [tokenizer.bos, AUDIO, *asked, *answer, tokenizer.eos]
    assert chat.scored.count(True) == len(answer) + 1
    assert stop_token(tokenizer, "plain") == tokenizer.eos != stop_token(tokenizer, "chat")


def test_a_model_without_chat_template_or_pad_token_reads_plain_text(tmp_path):
    tokenizer = PretrainedTokenizer(toy.llm(tmp_path, template=None))
    assert encode_chat(tokenizer, TALK[:2], template="plain").tokens
    with pytest.raises(UserError, match=r"has no chat template: set data\.init_args\.template to plain"):
        encode_chat(tokenizer, TALK[:2])


def test_a_template_that_refuses_or_hides_a_turn_is_reported(tmp_path):
    refusing = PretrainedTokenizer(toy.llm(tmp_path / "a", template="{{ raise_exception('no system') }}"))
    with pytest.raises(UserError, match=r"refuses user → assistant \(no system\)"):
        encode_chat(refusing, TALK[:2])
    hiding = PretrainedTokenizer(toy.llm(tmp_path / "b", template="{{ messages[0]['content'] }}"))
    with pytest.raises(UserError, match="does not contain user → assistant"):
        encode_chat(hiding, TALK[:2])


def test_a_tokenizer_is_restored_from_its_state_and_another_is_refused(models, tmp_path):
    tokenizer = PretrainedTokenizer(models["qwen3"])
    again = PretrainedTokenizer.from_state(tokenizer.state())
    assert again.fingerprint == tokenizer.fingerprint
    with pytest.raises(UserError, match="is not the one that the checkpoint was trained with"):
        PretrainedTokenizer.from_state({**tokenizer.state(), "source": models["llama"]})


# ---------------------------------------------------------------- the Thinker


@torch.no_grad()
@pytest.mark.parametrize("kind", toy.LLMS)
def test_logits_and_losses_equal_those_of_the_model(models, kind):
    import transformers

    thinker = PretrainedThinker(source=models[kind]).eval()
    model = transformers.AutoModelForCausalLM.from_pretrained(models[kind]).eval()
    own = torch.randint(0, 280, (2, 9))
    tokens, targets = own + NUM_SPECIALS, own.roll(-1, 1) + NUM_SPECIALS
    targets[:, :3] = targets[:, -1] = IGNORE
    hidden = thinker.encode(tokens).hidden
    expected = model(input_ids=own).logits
    logits = thinker.logits(hidden)
    close(logits[..., NUM_SPECIALS:], expected)
    assert (logits[..., :NUM_SPECIALS] == -torch.inf).all()
    assert logits.shape[-1] == thinker.vocab_size
    wanted = torch.where(targets == IGNORE, IGNORE, targets - NUM_SPECIALS)
    loss = torch.nn.functional.cross_entropy(expected.flatten(0, 1), wanted.flatten(), reduction="sum")
    close(thinker.cross_entropy(hidden, targets), loss)
    rms = model.get_input_embeddings().weight.square().mean().sqrt()
    assert thinker.embedding_rms == pytest.approx(float(rms), rel=0.01)


@torch.no_grad()
@pytest.mark.parametrize("kind", toy.LLMS)
def test_cached_ragged_decoding_equals_recomputation(models, kind):
    thinker, tokenizer = PretrainedThinker(source=models[kind]).eval(), PretrainedTokenizer(models[kind])
    prompts = [tokenizer.encode(text) for text in ("the red star is", "ab", "1 2 3, the red star")]
    # The shorter prompt of a batch with media comes as embeddings with arbitrary padding.
    most = max(map(len, prompts))
    padded = torch.full((3, most), NUM_SPECIALS)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = torch.tensor(prompt)
    steps = generate(
        thinker, prompts, embeddings=thinker.embed(padded), max_tokens=6, stop=0, sampling=Sampling(temperature=0)
    )
    for row, said in enumerate(zip(*steps, strict=True)):
        tokens = prompts[row]
        for token in said:
            assert int(thinker.logits(thinker.encode(torch.tensor([tokens])).hidden[:, -1]).argmax()) == token
            tokens = [*tokens, token]


@torch.no_grad()
@pytest.mark.parametrize("kind", toy.LLMS)
def test_a_truncated_cache_continues_exactly(models, kind):
    thinker = PretrainedThinker(source=models[kind]).eval()
    tokens = torch.randint(NUM_SPECIALS, 280, (1, 12), generator=torch.Generator().manual_seed(0))
    cache = thinker.new_cache(1, 20)
    thinker.encode(torch.cat((tokens[:, :5], tokens[:, :4]), 1), cache=cache)
    cache.advance(9)
    cache.keep(30)
    assert cache.lengths == [9]
    cache.keep(5)
    assert cache.lengths == [5]
    close(thinker.encode(tokens[:, 5:], cache=cache).hidden, thinker.encode(tokens).hidden[:, 5:])


def test_placeholders_need_no_row_of_the_embedding(models):
    thinker = PretrainedThinker(source=models["qwen3"])
    rows = thinker.model.get_input_embeddings().weight.shape[0]
    assert thinker.vocab_size == NUM_SPECIALS + rows
    assert thinker.embed(torch.tensor([[AUDIO, IMAGE]])).shape == (1, 2, 32)


@pytest.mark.parametrize("kind", toy.LLMS)
def test_gradient_checkpointing_works_in_train_and_eval_mode(models, kind):
    """A frozen model is in eval mode while gradients pass through it, where the library's own checkpointing is off."""
    thinkers = [PretrainedThinker(source=models[kind], gradient_checkpointing=again) for again in (False, True)]
    embeddings = torch.randn(1, 5, 32)
    for mode in (False, True):
        gradients, calls = [], []
        for thinker in thinkers:
            thinker.train(mode)
            layers = [m for m in thinker.model.modules() if type(m).__name__.endswith("Attention")]
            count = []
            hooks = [layer.register_forward_hook(lambda *_, count=count: count.append(1)) for layer in layers]
            x = embeddings.clone().requires_grad_()
            thinker.encode(embeddings=x).hidden.square().sum().backward()
            gradients.append(x.grad)
            calls.append(len(count))
            for hook in hooks:
                hook.remove()
        assert calls == [2, 4]
        if not mode:  # GPT-2 has dropout
            close(*gradients)


def test_models_with_other_functions_of_logits_are_refused(models, monkeypatch):
    import transformers

    forward = transformers.LlamaForCausalLM.forward

    def louder(self, *args, **kwargs):
        found = forward(self, *args, **kwargs)
        found.logits = found.logits * 2
        return found

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", louder)
    with pytest.raises(UserError, match="computed in a way that omni does not support"):
        PretrainedThinker(source=models["llama"])


# ---------------------------------------------------------------- LoRA


@pytest.mark.parametrize("kind", toy.LLMS)
def test_lora_trains_its_updates_only_and_merges_exactly(models, kind):
    thinker = PretrainedThinker(source=models[kind], lora_rank=4, lora_dropout=0.1)
    plain = PretrainedThinker(source=models[kind]).eval()
    tokens = torch.randint(NUM_SPECIALS, 280, (2, 7))
    trained = {name for name, parameter in thinker.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert thinker.omitted_weights | trained == set(thinker.state_dict())
    close(thinker.eval().encode(tokens).hidden, plain.encode(tokens).hidden)  # the update is zero at first
    for name, parameter in thinker.named_parameters():
        if name in trained:
            torch.nn.init.normal_(parameter, std=0.1)
    hidden = thinker.encode(tokens).hidden
    assert (hidden - plain.encode(tokens).hidden).abs().max() > 0.01
    thinker.merge_lora()
    close(thinker.encode(tokens).hidden, hidden)
    assert set(thinker.state_dict()) == set(plain.state_dict())
    assert thinker.recipe == plain.recipe
    changed = {n for n, w in thinker.state_dict().items() if not torch.equal(w, plain.state_dict()[n])}
    assert changed
    assert not changed & thinker.omitted_weights


def test_lora_is_fp32_above_a_model_in_bf16(models):
    thinker = PretrainedThinker(source=models["qwen3"], lora_rank=2, dtype="bfloat16")
    types = {name.split(".")[-3] if "lora_" in name else "base": p.dtype for name, p in thinker.named_parameters()}
    assert types == {"lora_A": torch.float32, "lora_B": torch.float32, "base": torch.bfloat16}


def test_lora_on_the_head_is_trained(models):
    thinker = PretrainedThinker(source=models["llama"], lora_rank=2, lora_targets=["lm_head"]).eval()
    updates = {name: p for name, p in thinker.named_parameters() if "lora_" in name}
    assert updates
    for parameter in updates.values():
        torch.nn.init.normal_(parameter, std=0.3)
    tokens = torch.randint(NUM_SPECIALS, 280, (2, 7))
    hidden = thinker.encode(tokens).hidden
    loss = thinker.cross_entropy(hidden, tokens)
    close(
        loss, torch.nn.functional.cross_entropy(thinker.logits(hidden).flatten(0, 1), tokens.flatten(), reduction="sum")
    )
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in updates.values())


@pytest.mark.parametrize("positions", [3, 1000])
def test_the_loss_of_a_head_with_a_soft_cap_equals_that_of_its_logits(models, monkeypatch, positions):
    thinker = PretrainedThinker(source=models["llama"]).eval()
    thinker.logit_softcap = 0.2
    monkeypatch.setattr(losses, "CHUNK_BYTES", 4 * positions * thinker.vocab_size)
    tokens = torch.randint(NUM_SPECIALS, 280, (2, 7))
    targets = tokens.clone()
    targets[1, 3:] = IGNORE
    hidden = thinker.encode(tokens).hidden.detach().requires_grad_()
    logits = thinker.logits(hidden)
    assert logits[..., NUM_SPECIALS:].abs().max() <= 0.2
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    weights = torch.rand(targets.shape)
    each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    close(thinker.cross_entropy(hidden, targets, weights), (each * weights.flatten()).sum())
    loss = thinker.cross_entropy(hidden, targets)
    close(loss, expected)
    parameters = [hidden, thinker.model.lm_head.weight]
    close(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters))


@pytest.mark.filterwarnings("ignore:Model (with|has) .tie_word:UserWarning")  # a warning of the library
@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_lora_on_a_tied_matrix_is_refused(models, target):
    with pytest.raises(UserError, match=rf"lora_targets \['q_proj', '{target}'\]: .* one matrix as embedding and head"):
        PretrainedThinker(source=models["qwen3"], lora_rank=2, lora_targets=["q_proj", target])


def test_targets_that_match_nothing_are_reported_with_valid_ones(models):
    with pytest.raises(UserError, match=r"lora_targets \['query'\] match nothing in .*it has: .*q_proj"):
        PretrainedThinker(source=models["qwen3"], lora_rank=2, lora_targets=["query"])


# ---------------------------------------------------------------- encoders


@torch.no_grad()
@pytest.mark.parametrize("kind", toy.ENCODERS)
def test_recordings_of_unequal_length_are_encoded_independently(models, kind):
    encoder = PretrainedAudioEncoder(source=models[kind]).eval()
    rows = [sound(100, 1), sound(37, 2), sound(64, 3)]
    batch = torch.full((3, 100, 160), 3.0)  # arbitrary padding
    for row, one in enumerate(rows):
        batch[row, : one.shape[1]] = one
    together = encoder(batch, torch.tensor([100, 37, 64]))
    assert together.lengths.tolist() == [encoder.num_frames(n) for n in (100, 37, 64)] == [50, 19, 32]
    for row, one in enumerate(rows):
        alone = encoder(one, torch.tensor([one.shape[1]])).hidden[0]
        close(together.hidden[row, : len(alone)], alone)


@torch.no_grad()
@pytest.mark.parametrize("kind", toy.ENCODERS)
def test_long_recordings_are_encoded_in_pieces_to_their_end(models, kind):
    encoder = PretrainedAudioEncoder(source=models[kind], window=2.0).eval()
    encoder.front_end.normalized = False  # of the whole recording; single pieces would be normalised separately
    long = sound(519)
    heard = encoder(long, torch.tensor([519]))
    assert heard.hidden.shape[1] == heard.lengths.item() == 260
    pieces = [encoder(long[:, at : at + 200], torch.tensor([min(200, 519 - at)])).hidden for at in (0, 200, 400)]
    close(heard.hidden, torch.cat(pieces, 1))
    changed = long.clone()
    changed[:, 500:] = sound(19, 9)
    assert (encoder(changed, torch.tensor([519])).hidden[:, -3:] - heard.hidden[:, -3:]).abs().max() > 1e-4
    both = encoder(torch.cat((long, changed)), torch.tensor([519, 230]))
    close(both.hidden[0], heard.hidden[0])
    close(both.hidden[1, :115], encoder(changed[:, :230], torch.tensor([230])).hidden[0])


@torch.no_grad()
def test_whisper_equals_its_own_library_on_three_seconds(models):
    """The library pads recordings to this length, so that no padding is needed here."""
    import transformers

    model = transformers.WhisperModel.from_pretrained(models["whisper"]).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(models["whisper"])
    audio = sound(300)
    features = extractor(audio.flatten().numpy(), sampling_rate=16_000, return_tensors="pt").input_features
    encoder = PretrainedAudioEncoder(source=models["whisper"]).eval()
    heard = encoder.front_end.features(audio, torch.tensor([300])).mT
    close(heard[..., :-1], features[..., :-1], 1e-3)  # the end: silence, and a reflection in the library
    close(encoder(audio, torch.tensor([300])).hidden, model.encoder(heard).last_hidden_state, 1e-3)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["hubert", "wav2vec2"])
def test_waveform_models_equal_their_own_library(models, kind):
    import transformers

    model = transformers.AutoModel.from_pretrained(models[kind]).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(models[kind])
    audio = sound(100)
    encoder = PretrainedAudioEncoder(source=models[kind]).eval()
    prepared = encoder.front_end.preprocess(audio, torch.tensor([100])).flatten()
    inputs = extractor(audio.flatten().numpy(), sampling_rate=16_000, return_tensors="pt").input_values
    close(prepared, inputs[0], 1e-3)
    padded = torch.nn.functional.pad(prepared, (0, 80))[None]  # the last frame extends past the end
    close(encoder(audio, torch.tensor([100])).hidden, model(padded).last_hidden_state, 1e-3)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "pool"), [*product(["clip", "siglip"], [1, 2])])
def test_vision_towers_give_patches_in_reading_order(models, kind, pool):
    encoder = PretrainedVisionEncoder(source=models[kind], pool=pool).eval()
    images = torch.rand(2, 3, 16, 16)
    tokens = encoder.tokens(images)
    assert encoder.token_grid == (4 // pool, 4 // pool)
    assert tokens.shape == (2, (4 // pool) ** 2, encoder.token_dim)
    whole = PretrainedVisionEncoder(source=models[kind]).eval()
    hidden = whole.model(pixel_values=(images - whole.mean) / whole.std).last_hidden_state[:, -16:]
    squares = hidden.unflatten(1, (4 // pool, pool, 4 // pool, pool)).mean((2, 4)).flatten(1, 2)
    close(tokens, squares)


# ---------------------------------------------------------------- errors of sources


def test_missing_models_are_reported_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"is not a folder: give the folder of a model"):
        PretrainedThinker(source=str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"config.json is missing: give the folder"):
        PretrainedThinker(source=str(tmp_path / "empty"))
    (tmp_path / "empty/config.json").write_text("{}")
    with pytest.raises(UserError, match=r"cannot be loaded \("):
        PretrainedThinker(source=str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"nobody/nothing: cannot be loaded from the Hub .*hf download nobody/nothing"):
        PretrainedAudioEncoder(source="nobody/nothing")


def test_another_sample_rate_is_refused(tmp_path):
    with pytest.raises(ValueError, match="sampling rate is 8,000 Hz and omni's 16,000 Hz"):
        PretrainedAudioEncoder(source=toy.encoder(tmp_path, "hubert", sampling_rate=8_000))
