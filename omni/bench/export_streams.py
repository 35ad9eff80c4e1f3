"""The exported streams: codec, vocoder and a frame of the Talker, with inputs of the size that streaming has."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from omni.bench.race import read_size
from omni.export.graphs import Graph
from omni.export.passed_state import no_entries
from omni.export.speech_graphs import codec_decoder_graph, codec_encoder_graph, talker_graph, vocoder_graph
from omni.models.codec import Codec
from omni.models.talker import Talker
from omni.models.vocoder import Vocos

FRAMES = 16  # of codes in a call of codec and vocoder: 0.64 s at 25 Hz
SPOKEN = 50  # frames of the Talker before the one that is timed: 2 s at 25 Hz

Inputs = dict[str, Tensor]


def stream(part: str, size: str) -> tuple[Graph, Inputs]:
    """The graph of an untrained part, and inputs of a batch of one.

    Args:
        part: One of `STREAMS`.
        size: A folder of `configs/models`.

    Raises:
        UserError: If there is no such size.
    """
    return STREAMS[part](size)


def _codec(size: str) -> Codec:
    return Codec(**read_size(size, "codec")).eval()


def _codec_encoder(size: str) -> tuple[Graph, Inputs]:
    codec = _codec(size)
    graph = codec_encoder_graph(codec)
    mels = torch.randn(1, FRAMES, codec.downsampling, codec.num_mels)
    return graph, {"mels": mels, "past": graph.example["past"][:, :1]}


def _codec_decoder(size: str) -> tuple[Graph, Inputs]:
    codec = _codec(size)
    graph = codec_decoder_graph(codec)
    codes = torch.randint(codec.codebook_size, (1, FRAMES, codec.num_codebooks))
    return graph, {"codes": codes, "past": graph.example["past"][:, :1]}


def _vocoder(size: str) -> tuple[Graph, Inputs]:
    vocoder, downsampling = Vocos(**read_size(size, "vocoder")).eval(), _codec(size).downsampling
    graph = vocoder_graph(vocoder)
    mels = torch.randn(1, FRAMES * downsampling, vocoder.num_mels)
    return graph, {"mels": mels, "past": graph.example["past"][:, :1], "tail": graph.example["tail"][:1]}


def _talker(size: str) -> tuple[Graph, Inputs]:
    talker = Talker(**read_size(size, "talker")).eval()
    graph = talker_graph(talker)
    inputs = {name: value if name == "sampling" else value[:1] for name, value in graph.example.items()}
    return graph, {**inputs, "past": no_entries(talker.transformer, 1, SPOKEN)}


STREAMS: dict[str, Callable[[str], Any]] = {
    "codec_encoder": _codec_encoder,
    "codec_decoder": _codec_decoder,
    "vocoder": _vocoder,
    "talker": _talker,
}
