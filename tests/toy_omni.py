"""A Thinker, encoders and projectors of a few thousand parameters, and conversations for them."""

import torch

from omni.models.audio_encoder import AudioEncoder
from omni.models.omni import Omni
from omni.models.projector import (
    LinearProjector,
    MLPProjector,
    MoEProjector,
    MoSAProjector,
    QFormerProjector,
    SwiGLUProjector,
)
from omni.models.thinker import Thinker
from omni.models.vision_encoder import VisionEncoder
from omni.text.chat_template import encode_chat
from omni.text.media_positions import expand_placeholders
from omni.text.tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()
MELS = 16
PROJECTORS = {
    "linear": LinearProjector,
    "mlp": MLPProjector,
    "swiglu": SwiGLUProjector,
    "mosa": MoSAProjector,
    "moe": MoEProjector,
    "qformer": QFormerProjector,
}


def toy_omni(*, seed=0, rope_axes=3, frame_stacking=1, kind="mlp"):
    """An Omni in eval mode."""
    torch.manual_seed(seed)
    thinker = Thinker(vocab_size=288, dim=32, num_layers=2, num_heads=4, ffn_dim=48, rope_axes=rope_axes)
    torch.nn.init.normal_(thinker.embedding.weight, std=0.3 / 32**0.5)  # small, or it would repeat its input
    vision = VisionEncoder(image_size=16, patch_size=8, dim=24, num_layers=1, num_heads=2, ffn_dim=32, stem_width=4)
    audio = AudioEncoder(
        vocab_size=5, num_mels=MELS, dim=16, num_layers=1, num_heads=2, ffn_dim=24, conv_channels=2, head_dim=8
    )
    omni = Omni(
        thinker,
        vision_encoder=vision,
        vision_projector=PROJECTORS[kind](in_dim=24, out_dim=32),
        audio_encoder=audio,
        audio_projector=PROJECTORS[kind](in_dim=16, out_dim=32, frame_stacking=frame_stacking),
    )
    omni.calibrate()
    return omni.eval()


def image(seed):
    """(3, 16, 16)."""
    return torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(seed))


def mel(seed, frames):
    """(frames, MELS)."""
    return torch.randn(frames, MELS, generator=torch.Generator().manual_seed(seed))


def user(*parts):
    """A user's turn of texts, images and mels."""
    content = []
    for part in parts:
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
        else:
            content.append({"type": "image" if part.dim() == 3 else "audio"})
    return {"role": "user", "content": content}


def laid(omni, messages, media, *, prompt=False):
    """A conversation with placeholders for its media."""
    spans = [omni.layout.image() if one.dim() == 3 else omni.layout.audio(len(one)) for one in media]
    chat = encode_chat(TOKENIZER, messages, add_generation_prompt=prompt)
    return expand_placeholders(chat, spans)


def inputs(media):
    """Images and mels of several rows in order, as keyword arguments of `Omni.embed`."""
    images = [one for one in media if one.dim() == 3]
    mels = [one for one in media if one.dim() == 2]
    found = {"images": torch.stack(images)} if images else {}
    if mels:
        padded = torch.nn.utils.rnn.pad_sequence(mels, batch_first=True)
        found |= {"mels": padded, "mel_lengths": torch.tensor([len(one) for one in mels])}
    return found
