"""Graphs of the codec, the vocoder and the Talker, run by onnxruntime piece by piece, equal PyTorch on the whole."""

from random import Random

import pytest
import torch
from toy_graphs import Run
from toy_voice import codec_of, talker_of

from omni.decoding.sampling import choose_tokens
from omni.decoding.sampling_graph import choose
from omni.decoding.sampling_options import Sampling, SpeechSampling
from omni.decoding.talker import speak_codes
from omni.errors import UserError
from omni.export.passed_state import no_entries
from omni.export.speech_graphs import (
    codec_decoder_graph,
    codec_encoder_graph,
    talker_graph,
    talker_text_graph,
    vocoder_graph,
)
from omni.models.vocoder import Vocos

OPTIONS = [(0.7, 0, 1.0), (0.0, 0, 1.0), (1.3, 4, 1.0), (1.0, 0, 0.8), (0.9, 30, 0.6), (1.0, 1, 1.0)]


def pieces(whole, sizes):
    """Parts of (batch, time, ...) of these sizes, and the rest."""
    return whole.split([*sizes, whole.shape[1] - sum(sizes)], dim=1)


def streamed(run, whole, sizes, **state):
    """The first output of a graph for the pieces of its first input, and the last state."""
    found = []
    (name,) = {each.name for each in run.session.get_inputs()} - state.keys()
    for piece in pieces(whole, sizes):
        outputs = run(**{name: piece}, **state)
        first, *rest = run.outputs
        found.append(outputs[first])
        state = dict(zip(state, (outputs[each] for each in rest), strict=True))
    return torch.cat(found, dim=1), state


@pytest.mark.slow
def test_codec_in_pieces(tmp_path):
    downsampling = 8
    codec = codec_of(downsampling=downsampling, num_layers=1, kernel_size=5)
    torch.nn.init.normal_(codec.quantizer.project_in.weight)  # or almost all frames would have the same codes
    encoder, decoder = codec_encoder_graph(codec), codec_decoder_graph(codec)
    encode, decode = Run(encoder, tmp_path / "encoder.onnx"), Run(decoder, tmp_path / "decoder.onnx")
    for batch, frames, sizes in ((1, 9, (1, 5, 1)), (3, 20, (13,))):
        mels = torch.randn(batch, frames * downsampling, 16)
        start = torch.zeros(2, batch, 16, 4)
        with torch.no_grad():
            codes = codec.encode(mels)
            found, _ = streamed(encode, mels.unflatten(1, (frames, downsampling)), sizes, past=start)
            assert codes.unique().numel() > 9
            torch.testing.assert_close(found, codes, atol=0, rtol=0)
            found, _ = streamed(decode, codes, sizes, past=start)
            torch.testing.assert_close(found, codec.decode(codes), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("sample_rate", "n_fft"), [(16_000, 480), (24_000, 960)])
def test_vocoder_in_pieces(tmp_path, sample_rate, n_fft):
    torch.manual_seed(0)
    vocoder = Vocos(num_mels=16, dim=16, num_layers=2, n_fft=n_fft, sample_rate=sample_rate).eval()
    run = Run(vocoder_graph(vocoder), tmp_path / "vocoder.onnx")
    for batch, frames, sizes in ((1, 9, (1, 1, 5)), (2, 30, (13, 2))):
        mels = torch.randn(batch, frames, 16)
        state = {"past": torch.zeros(2, batch, 16, 6), "tail": torch.zeros(batch, n_fft - vocoder.hop_length)}
        found, state = streamed(run, mels, sizes, **state)
        found = torch.cat((found, state["tail"][:, : vocoder.delay]), dim=1)[:, vocoder.delay :]
        with torch.no_grad():
            torch.testing.assert_close(found, vocoder(mels), atol=1e-5, rtol=0)


def test_vocoder_that_reads_ahead_is_refused():
    with pytest.raises(UserError, match="reads future frames"):
        vocoder_graph(Vocos(num_mels=16, dim=16, num_layers=1, causal=False))


@pytest.mark.parametrize("options", OPTIONS)
def test_choices_are_those_of_sampling(options):
    torch.manual_seed(0)
    logits, draws = 3 * torch.randn(400, 30), torch.rand(400)
    logits[:, 7] = -torch.inf
    temperature, top_k, top_p = options
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    wanted = choose_tokens(sampling, logits, torch.zeros(()), draws)
    assert torch.equal(choose(logits, draws, torch.tensor(options)), wanted)


def spoken(text_run, step_run, talker, texts, options, **conditions):
    """As `speak_codes`, by graphs."""
    lengths = torch.tensor([len(text) for text in texts])
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(text) for text in texts], batch_first=True)
    encoded = text_run(text=padded, text_lengths=lengths, **conditions)["encoded"]
    streams = [Random(f"0/{number}") for number in range(len(texts))]
    before, past = torch.full((len(texts), talker.num_codebooks), -1), no_entries(talker.transformer, len(texts))
    position, dwelt, codes = torch.zeros_like(lengths), torch.zeros_like(lengths), [[] for _ in texts]
    while (alive := position < lengths + 2).any():
        draws = torch.tensor([[stream.random() for _ in range(talker.num_codebooks + 1)] for stream in streams])
        characters = encoded[torch.arange(len(texts)), position.clamp(max=encoded.shape[1] - 1)]
        outputs = step_run(before=before, characters=characters, draws=draws, sampling=torch.tensor(options), past=past)
        before, past = outputs["codes"], outputs["present"]
        for row in alive.nonzero()[:, 0].tolist():
            codes[row].append(before[row])
        dwelt += 1
        steps = torch.where(dwelt >= talker.frame_rate, outputs["advances"].clamp(min=1), outputs["advances"])
        dwelt = torch.where(steps > 0, 0, dwelt)
        position += steps
    return [torch.stack(row) for row in codes]


@pytest.mark.slow
def test_talker_speaks_the_same_codes(tmp_path):
    talker = talker_of(num_speakers=3, thinker_dim=8, num_layers=1, num_kv_heads=1)
    text_run = Run(talker_text_graph(talker), tmp_path / "text.onnx")
    step_run = Run(talker_graph(talker), tmp_path / "talker.onnx")
    options = [(0.7, 0.0, 1.0), (1.0, 5.0, 0.9), (0.8, 0.0, 1.0)]
    names = ("temperature", "top_k", "top_p")
    first, rest, pace = (Sampling(**dict(zip(names, (t, int(k), p), strict=True))) for t, k, p in options)
    sampling = SpeechSampling(first=first, rest=rest, pace=pace)
    for texts in ([[3]], [[1, 2, 5, 5, 3], [4, 2, 1]]):
        speakers, hidden = [2, 1][: len(texts)], torch.randn(len(texts), max(map(len, texts)), 8)
        wanted = speak_codes(talker, texts, sampling=sampling, speakers=speakers, hidden=hidden)
        conditions = {"speakers": torch.tensor(speakers), "hidden": hidden}
        found = spoken(text_run, step_run, talker, texts, options, **conditions)
        assert all(map(torch.equal, found, wanted))
        assert sum(map(len, wanted)) > 2 * len(texts) * max(map(len, texts))
