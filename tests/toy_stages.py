"""Every stage at toy size with a batch, a fake trainer and fake data, for checks of one step."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import toy_pretrained
from toy_omni import MELS, TOKENIZER, toy_omni
from toy_talker import batch_of as spoken_batch
from toy_talker import make as talker_of

from omni.batch import Attribute, CodesBatch, ConversationBatch, ImageBatch, SpeechBatch, TextBatch
from omni.metrics import Classification
from omni.models.audio_encoder import AudioEncoder
from omni.models.classifier import Classifier
from omni.models.codec import Codec
from omni.models.contrast import ContrastHead
from omni.models.discriminators import Discriminators
from omni.models.pretrained.audio_encoder import PretrainedAudioEncoder
from omni.models.pretrained.thinker import PretrainedThinker
from omni.models.projector import MLPProjector
from omni.models.text_encoder import TextEncoder
from omni.models.thinker import Thinker
from omni.models.vision_encoder import VisionEncoder
from omni.models.vocoder import Vocos
from omni.stages.answer_metrics import AnswerMetrics
from omni.stages.audio import SpeechRecognition
from omni.stages.codec import CodecTraining
from omni.stages.omni import OmniTuning
from omni.stages.stage import Stage
from omni.stages.talker import TalkerTraining
from omni.stages.thinker import ThinkerPretraining
from omni.stages.vision import VisionPretraining
from omni.stages.vocoder import VocoderTraining
from omni.text.ctc_vocabulary import CharacterVocabulary
from omni.text.media_positions import expand_placeholders
from omni.text.tokenizer import AUDIO, IMAGE, NUM_SPECIALS

UNITS = CharacterVocabulary(" abcd")
THINKER = {"vocab_size": 288, "dim": 32, "num_layers": 2, "num_heads": 4, "ffn_dim": 48}
HEARING = {"vocab_size": UNITS.vocab_size, "num_mels": MELS, "dim": 16, "num_layers": 2, "num_heads": 2, "ffn_dim": 24}
HEARING |= {"conv_channels": 2, "head_dim": 8}
CODEC = {"num_mels": MELS, "dim": 16, "num_layers": 1, "num_codebooks": 3, "codebook_size": 12, "codebook_dim": 8}


class Toy(NamedTuple):
    """A stage, in train mode, and a batch on the CPU; the stage only holds a weak reference to the trainer."""

    stage: Stage
    batch: Any
    trainer: Any


def thinker(folder: Path, **options: Any) -> Toy:
    stage = ThinkerPretraining(Thinker(**THINKER, **options), **OPTIONS)
    stage.token_bytes = torch.tensor(TOKENIZER.token_bytes())
    tokens = torch.randint(NUM_SPECIALS, 280, (3, 12))
    return _toy(stage, TextBatch(tokens, tokens.roll(-1, 1), torch.arange(3)), tokenizer=TOKENIZER)


def audio(folder: Path, *, consistency: float) -> Toy:
    encoder = AudioEncoder(**HEARING, intermediate_ctc_block=1, conv_kernel=3)
    batch = _speech()
    batch = batch._replace(other_mels=batch.mels.roll(1, 2) if consistency else None)
    return _toy(SpeechRecognition(encoder, consistency=consistency, **OPTIONS), batch, tokenizer=UNITS)


def vision(folder: Path, *, contrast: bool) -> Toy:
    encoder = VisionEncoder(image_size=16, patch_size=8, dim=24, num_layers=1, num_heads=2, ffn_dim=32, stem_width=4)
    attributes = (Attribute("colour", tuple("abcdef")), Attribute("toys", ("x", "y"), several=True))
    images, rows = torch.rand(4, 3, 16, 16), torch.arange(4)
    if contrast:
        tower = TextEncoder(vocab_size=64, dim=16, num_layers=1, num_heads=2, ffn_dim=32)
        stage = VisionPretraining(encoder, None, ContrastHead(image_dim=24, text_dim=16), tower, **OPTIONS)
        captions = torch.randint(NUM_SPECIALS, 64, (4, 2, 6))
        batch = ImageBatch(images, torch.zeros(4, 0), rows, captions, torch.tensor([[0, 1], [2, -1], [0, 3], [4, 5]]))
        return _toy(stage, batch, attributes=())
    stage = VisionPretraining(encoder, Classifier(dim=24, num_classes=8, dropout=0.1), **OPTIONS)
    stage.classification = Classification(attributes)
    labels = torch.cat((torch.eye(6)[[0, 1, 2, 5]], torch.tensor([[1.0, 0], [0, 0], [-1, -1], [1, 1]])), dim=1)
    return _toy(stage, ImageBatch(images, labels, rows), attributes=attributes)


def codec(folder: Path) -> Toy:
    recogniser = AudioEncoder(**HEARING)
    stage = CodecTraining(Codec(**CODEC), recogniser, quality_utterances=1, **OPTIONS)
    batch = _speech()
    return _toy(stage, batch._replace(audio=_sound(batch)), tokenizer=UNITS, audio="all")


def talker(folder: Path, *, reads: bool) -> Toy:
    options = {"num_speakers": 2, **({"thinker_dim": THINKER["dim"]} if reads else {})}
    stage = TalkerTraining(
        talker_of(**options), Thinker(**THINKER) if reads else None, sentences=0, **_frozen("thinker" if reads else "")
    )
    if reads:
        stage._thinker_tokenizer = TOKENIZER
    texts = [[1, 2, 3, 2], [4, 5]]
    batch = CodesBatch(
        **spoken_batch(texts),
        speakers=torch.tensor([0, 1]),
        rows=torch.arange(2),
        seconds=0.5,
        spelled=tuple(torch.tensor(text).numpy() for text in texts),
    )
    return _toy(stage, batch, tokenizer=UNITS)


def vocoder(folder: Path) -> Toy:
    judges = Discriminators(periods=[2], period_channels=[4, 8], resolutions=[128], resolution_channels=4)
    parts = Vocos(num_mels=MELS, dim=32, num_layers=1), judges, Codec(**CODEC), AudioEncoder(**HEARING)
    stage = VocoderTraining(*parts, quality_utterances=1, **OPTIONS)
    batch = _speech()
    return _toy(stage, batch._replace(audio=_sound(batch)), tokenizer=UNITS, audio="all")


def omni(folder: Path) -> Toy:
    parts = toy_omni(kind="moe")
    stage = OmniTuning(**dict(parts.named_children()), frame_dropout=0.1, answer_tokens=3, **OPTIONS)
    media = ["image", "audio"]
    batch = _conversations([media, media[:1], []], stage)._replace(images=torch.rand(2, 3, 16, 16))
    batch = batch._replace(image_rows=(0, 1), mels=torch.randn(1, 40, MELS), mel_lengths=torch.tensor([40]))
    return _conversing(stage, batch._replace(audio_rows=(0,)), MELS)


def asr_llm(folder: Path) -> Toy:
    for name, make in {"llm": toy_pretrained.llm, "encoder": toy_pretrained.encoder}.items():
        if not (folder / name).exists():
            make(folder / name)
    torch.manual_seed(0)  # whether they existed or not
    thinker, encoder = (
        PretrainedThinker(source=str(folder / "llm")),
        PretrainedAudioEncoder(source=str(folder / "encoder")),
    )
    projector = MLPProjector(in_dim=16, out_dim=32, frame_stacking=2)
    options = {"audio_encoder": encoder, "audio_projector": projector, "answer_tokens": 3}
    stage = OmniTuning(thinker, **options, **_frozen("thinker", "audio_encoder"))
    batch = _conversations([["audio"], ["audio"]], stage)
    batch = batch._replace(mels=0.1 * torch.randn(2, 40, 160), mel_lengths=torch.tensor([40, 40]), audio_rows=(0, 1))
    return _conversing(stage, batch, 0)


OPTIONS: dict[str, Any] = {"optimizer": "adamw"}
STAGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "thinker": (thinker, {"dropout": 0.1, "gradient_checkpointing": True}),
    "thinker_moe": (thinker, {"num_experts": 4}),
    "audio": (audio, {"consistency": 0.0}),
    "audio_with_consistency": (audio, {"consistency": 0.2}),
    "vision_classes": (vision, {"contrast": False}),
    "vision_contrast": (vision, {"contrast": True}),
    "codec": (codec, {}),
    "talker": (talker, {"reads": False}),
    "talker_with_thinker": (talker, {"reads": True}),
    "vocoder": (vocoder, {}),
    "omni": (omni, {}),
    "asr_llm": (asr_llm, {}),
}


def toy(name: str, folder: Path) -> Toy:
    """A stage by its name in `STAGES`; `folder` holds the models that would be downloaded."""
    torch.manual_seed(0)
    make, options = STAGES[name]
    return make(folder, **options)


def _frozen(*names: str) -> dict[str, Any]:
    return {**OPTIONS, "frozen": [name for name in names if name]}


def _toy(stage: Stage, batch: Any, **data: Any) -> Toy:
    trainer = SimpleNamespace(
        world_size=1,
        accumulate_grad_batches=1,
        log_every_n_steps=50,
        global_step=1,  # not logged
        is_global_zero=True,
        datamodule=SimpleNamespace(**data),
    )
    stage.trainer = trainer
    stage.log = stage.log_dict = lambda *_, **__: None
    for name in stage.frozen:
        stage.part(name).requires_grad_(False)
    return Toy(stage.train(), batch, trainer)


def _speech() -> SpeechBatch:
    return SpeechBatch(
        mels=torch.randn(3, 48, MELS),
        mel_lengths=torch.tensor([48, 40, 24]),
        targets=torch.tensor([[1, 2, 3], [4, 4, 0], [1, 1, 1]]),
        target_lengths=torch.tensor([3, 2, 3]),
        rows=torch.arange(3),
        seconds=1.12,
    )


def _sound(batch: SpeechBatch) -> torch.Tensor:
    return 0.1 * torch.randn(len(batch.mels), 160 * batch.mels.shape[1])


def _conversations(media: list[list[str]], stage: OmniTuning) -> ConversationBatch:
    """Rows with media (images, then audio of 40 frames) and an answer of three tokens."""
    tokens, positions = [], []
    for row in media:
        spans = [stage.omni.layout.image() if one == "image" else stage.omni.layout.audio(40) for one in row]
        ids = [IMAGE if one == "image" else AUDIO for one in row] + [NUM_SPECIALS + 65 + n for n in range(5)]
        laid = expand_placeholders(SimpleNamespace(tokens=ids, scored=[False] * len(ids)), spans)  # type: ignore[arg-type]
        tokens.append(laid.tokens)
        positions.append(laid.positions.T)
    pad = torch.nn.utils.rnn.pad_sequence
    read = pad(tokens, batch_first=True)
    targets = torch.full_like(read, -100)
    for row, one in enumerate(tokens):
        targets[row, len(one) - 4 : len(one) - 1] = one[-3:]
    return ConversationBatch(
        tokens=read,
        targets=targets,
        positions=pad(positions, batch_first=True).permute(2, 0, 1),
        rows=torch.arange(len(media)),
        num_tokens=sum(map(len, tokens)),
        prompts=tuple(len(one) - 3 for one in tokens),
        answers=("CDE",) * len(media),
        tasks=("transcription", *["colour"] * (len(media) - 1)),
    )


def _conversing(stage: OmniTuning, batch: ConversationBatch, num_mels: int) -> Toy:
    tasks = ["transcription", "colour"]
    stage.answer_metrics = AnswerMetrics(tasks)
    transcription_prompt = SimpleNamespace(labels=None)
    tokenizer = SimpleNamespace(vocab_size=288, decode_turn=lambda ids: str(ids), decode=lambda ids: str(ids))
    return _toy(
        stage,
        batch,
        tokenizer=tokenizer,
        stop=3,
        tasks=tasks,
        num_mels=num_mels,
        transcription_prompt=transcription_prompt,
    )
