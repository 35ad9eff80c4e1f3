"""Archives and compiled packages equal PyTorch at sizes that they were not traced with."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from omni.errors import UserError
from omni.export.archives import (
    Run,
    compile_archive,
    has_compiler,
    load_archive,
    load_compiled,
    write_archive,
)
from omni.export.graphs import Graph, classifier_graph, compare, recognizer_graph, thinker_graph
from omni.models.audio_encoder import AudioEncoder
from omni.models.classifier import Classifier
from omni.models.thinker import Thinker
from omni.models.vision_encoder import VisionEncoder

# The exporter's own use of PyTorch.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]


def classifier() -> Graph:
    encoder = VisionEncoder(image_size=16, patch_size=8, stem_width=4, dim=16, num_layers=1, num_heads=2, ffn_dim=32)
    return classifier_graph(encoder, Classifier(dim=16, num_classes=5))


def difference(graph: Graph, run: Run, **inputs: Tensor) -> float:
    return compare(graph, run(**inputs), inputs, name="archive")


def test_recogniser_of_any_batch_and_length(tmp_path: Path):
    graph = recognizer_graph(AudioEncoder(num_mels=16, dim=16, num_layers=2, num_heads=2, ffn_dim=32, conv_channels=4))
    path = tmp_path / "recognizer.pt2"
    write_archive(graph, path)
    run = load_archive(path)
    for lengths in ([77], [40, 120, 9]):
        inputs = {"mels": torch.randn(len(lengths), max(lengths), 16), "lengths": torch.tensor(lengths)}
        assert difference(graph, run, **inputs) < 1e-4
    with torch.no_grad():
        graph.module.encoder.head.weight.add_(torch.randn_like(graph.module.encoder.head.weight))
    with pytest.raises(UserError, match=r"archive differs from PyTorch by"):
        difference(graph, run, **inputs)


def test_thinker_resumes_from_any_past(tmp_path: Path):
    thinker = Thinker(vocab_size=31, dim=16, num_layers=2, num_heads=2, num_kv_heads=1, ffn_dim=32).eval()
    graph = thinker_graph(thinker)
    write_archive(graph, tmp_path / "thinker.pt2")
    run = load_archive(tmp_path / "thinker.pt2")
    tokens, past, logits = torch.randint(31, (2, 9)), torch.zeros(2, 2, 2, 1, 0, 8), []
    for part in (tokens[:, :6], tokens[:, 6:8], tokens[:, 8:]):
        assert difference(graph, run, tokens=part, past=past) < 1e-4
        step, past = run(tokens=part, past=past)
        logits.append(step)
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(logits, 1), thinker(tokens).logits, atol=1e-4, rtol=0)


def test_compiled_package(tmp_path: Path):
    if not has_compiler():
        pytest.skip("no C++ compiler")
    graph, archive, package = classifier(), tmp_path / "classifier.pt2", tmp_path / "classifier.compiled.pt2"
    write_archive(graph, archive)
    compile_archive(archive, package)
    run = load_compiled(package)
    for batch in (1, 5):
        assert difference(graph, run, images=torch.rand(batch, 3, 16, 16)) < 1e-4
    package.write_bytes(package.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"classifier.compiled.pt2 is not a compiled package of this machine, or was"):
        load_compiled(package)


def test_what_cannot_be_read_or_compiled(tmp_path: Path):
    with pytest.raises(UserError, match=r"none.pt2 does not exist"):
        load_archive(tmp_path / "none.pt2")
    path = tmp_path / "classifier.pt2"
    write_archive(classifier(), path)
    with (
        torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(UserError, match=r"needs a C\+\+ compiler"),
    ):
        compile_archive(path, tmp_path / "compiled.pt2")
    for content in (path.read_bytes()[:-500], b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"classifier.pt2 is not a torch.export archive, or was cut"):
            load_archive(path)
