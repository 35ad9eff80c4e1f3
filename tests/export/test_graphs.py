"""ONNX graphs equal PyTorch at sizes that they were not traced with."""

import onnx
import pytest
import torch

from omni.errors import UserError
from omni.export.graphs import classifier_graph, largest_difference, recognizer_graph, thinker_graph, write_graph
from omni.models.audio_encoder import AudioEncoder
from omni.models.classifier import Classifier
from omni.models.thinker import Thinker
from omni.models.vision_encoder import VisionEncoder

pytestmark = pytest.mark.slow


def test_recogniser_of_any_batch_and_length_and_its_opset(tmp_path):
    graph = recognizer_graph(AudioEncoder(num_mels=16, dim=16, num_layers=2, num_heads=2, ffn_dim=32, conv_channels=4))
    path = tmp_path / "recognizer.onnx"
    write_graph(graph, path)
    assert [(each.domain, each.version) for each in onnx.load(path).opset_import if not each.domain] == [("", 20)]
    for lengths in ([77], [40, 120, 9]):
        inputs = {"mels": torch.randn(len(lengths), max(lengths), 16), "lengths": torch.tensor(lengths)}
        assert largest_difference(graph, path, inputs) < 1e-4
    with torch.no_grad():
        graph.module.encoder.head.weight.add_(torch.randn_like(graph.module.encoder.head.weight))
    with pytest.raises(UserError, match=r"recognizer.onnx differs from PyTorch by"):
        largest_difference(graph, path, inputs)


def test_image_classifier(tmp_path):
    encoder = VisionEncoder(image_size=16, patch_size=8, stem_width=4, dim=16, num_layers=1, num_heads=2, ffn_dim=32)
    graph = classifier_graph(encoder, Classifier(dim=16, num_classes=5))
    write_graph(graph, tmp_path / "classifier.onnx")
    for batch in (1, 5):
        assert largest_difference(graph, tmp_path / "classifier.onnx", {"images": torch.rand(batch, 3, 16, 16)}) < 1e-4


def test_thinker_goes_on_from_any_past_and_equals_a_run_without_cache(tmp_path):
    thinker = Thinker(vocab_size=31, dim=16, num_layers=2, num_heads=2, num_kv_heads=1, ffn_dim=32).eval()
    graph = thinker_graph(thinker)
    write_graph(graph, tmp_path / "thinker.onnx")
    tokens = torch.randint(31, (2, 9))
    past = torch.zeros(2, 2, 2, 1, 0, 8)
    logits = []
    for part in (tokens[:, :6], tokens[:, 6:8], tokens[:, 8:]):
        assert largest_difference(graph, tmp_path / "thinker.onnx", {"tokens": part, "past": past}) < 1e-4
        with torch.no_grad():
            step, past = graph.module(part, past)
        logits.append(step)
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(logits, 1), thinker(tokens).logits, atol=1e-4, rtol=0)
