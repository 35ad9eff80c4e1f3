"""Graphs of a model with images and audio, run by onnxruntime: a whole question is answered as by PyTorch."""

import pytest
import torch
import toy_omni
from toy_graphs import Run
from toy_omni import TOKENIZER, laid, user
from toy_omni import toy_omni as make

from omni.decoding.sampling import generate
from omni.decoding.sampling_options import Sampling
from omni.errors import UserError
from omni.export.omni_graphs import (
    audio_embeddings_graph,
    check_thinker,
    conditioner_graph,
    image_embeddings_graph,
    omni_thinker_graph,
)
from omni.export.passed_state import no_entries
from omni.models.thinker import Thinker
from omni.text.tokenizer import AUDIO, IMAGE


def answered(runs, omni, prompt, media, max_tokens):
    """Greedy continuation of a prompt with an image and a recording, by graphs."""
    image, mel = media
    tokens, positions = prompt.tokens[None], prompt.positions[:, None]
    found = runs["audio"](mels=mel[None], lengths=torch.tensor([len(mel)]))
    embeddings = torch.zeros(1, tokens.shape[1], omni.thinker.dim)
    embeddings[tokens == AUDIO] = found["embeddings"][0, : int(found["num_tokens"])]
    embeddings[tokens == IMAGE] = runs["image"](images=image[None])["embeddings"][0]
    past, answer = no_entries(omni.thinker.transformer, 1), []
    for _ in range(max_tokens):
        given = {"positions": positions.contiguous()} if omni.thinker.rope_axes == 3 else {}
        found = runs["thinker"](tokens=tokens, media=embeddings, past=past, **given)
        tokens, past = found["logits"][:, -1:].argmax(-1), found["present"]
        embeddings, positions = torch.zeros(1, 1, omni.thinker.dim), positions[:, :, -1:].amax(0).expand(3, 1, 1) + 1
        answer.append(int(tokens))
    return answer


@pytest.mark.slow
@pytest.mark.parametrize(("rope_axes", "frame_stacking"), [(3, 1), (1, 3)])
def test_question_about_an_image_and_a_recording(tmp_path, rope_axes, frame_stacking):
    omni = make(rope_axes=rope_axes, frame_stacking=frame_stacking)
    omni.thinker.head.weight = torch.nn.Parameter(torch.randn(288, 32))  # tied, it would repeat its first token
    runs = {
        "audio": Run(audio_embeddings_graph(omni), tmp_path / "audio.onnx"),
        "image": Run(image_embeddings_graph(omni), tmp_path / "image.onnx"),
        "thinker": Run(omni_thinker_graph(omni.thinker), tmp_path / "thinker.onnx"),
    }
    for seed, frames in ((1, 90), (2, 8), (3, 203)):
        media = [toy_omni.image(seed), toy_omni.mel(seed, frames)]
        prompt = laid(omni, [user(media[0], "a", media[1], "what?")], media, prompt=True)
        with torch.no_grad():
            embeddings = omni.embed(prompt.tokens[None], **toy_omni.inputs(media)).embeddings
        steps = generate(
            omni.thinker,
            [prompt.tokens.tolist()],
            embeddings=embeddings,
            positions=omni.rotary_positions(prompt.positions[:, None]),
            max_tokens=9,
            stop=-1,
            sampling=Sampling(temperature=0),
        )
        wanted = [token for (token,) in steps]
        assert answered(runs, omni, prompt, media, 9) == wanted
        assert len(set(wanted)) > 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linear", "mosa", "qformer"])
def test_projectors_of_several_recordings(tmp_path, kind):
    omni = make(kind=kind, frame_stacking=2)
    audio = Run(audio_embeddings_graph(omni), tmp_path / "audio.onnx")
    for lengths in ([77], [40, 120, 9]):
        mels = torch.randn(len(lengths), max(lengths), 16)
        found = audio(mels=mels, lengths=torch.tensor(lengths))
        with torch.no_grad():
            hidden, frames, _ = omni.encode_audio(mels, torch.tensor(lengths))
            wanted = omni.audio_projector(hidden, frames).tokens
        assert torch.equal(found["num_tokens"], omni.audio_projector.num_tokens(frames))
        for row, count in enumerate(found["num_tokens"]):
            torch.testing.assert_close(found["embeddings"][row, :count], wanted[row, :count], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_conditioner_of_padded_texts(tmp_path):
    thinker = make().thinker
    run = Run(conditioner_graph(thinker), tmp_path / "conditioner.onnx")
    for shape in ((1, 1), (3, 11)):
        tokens = torch.randint(1, TOKENIZER.vocab_size, shape)
        with torch.no_grad():
            torch.testing.assert_close(run(tokens=tokens)["hidden"], thinker.encode(tokens).hidden, atol=1e-4, rtol=0)


def test_what_cannot_be_exported_is_refused():
    experts = Thinker(vocab_size=9, dim=8, num_layers=1, num_heads=1, ffn_dim=8, num_experts=2)
    for graph in (omni_thinker_graph, conditioner_graph, check_thinker):
        with pytest.raises(UserError, match="has experts"):
            graph(experts)
    with pytest.raises(UserError, match="the Thinker is a Linear"):
        check_thinker(torch.nn.Linear(1, 1))
    omni = make(kind="moe")
    for graph in (audio_embeddings_graph, image_embeddings_graph):
        with pytest.raises(UserError, match="MoEProjector has experts"):
            graph(omni)
    omni.audio_encoder = omni.vision_encoder = None
    with pytest.raises(UserError, match="there is no audio encoder"):
        audio_embeddings_graph(omni)
    with pytest.raises(UserError, match="there is no vision encoder"):
        image_embeddings_graph(omni)
