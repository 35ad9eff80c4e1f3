"""Stage D2: trains the Talker to speak text, as the codes of a codec."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from lightning import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from omni.batch import IGNORE, CodesBatch
from omni.checkpoints.checkpoint import Checkpoint, Lineage
from omni.checkpoints.weights import weights_fingerprint
from omni.decoding.sampling_options import SpeechSampling
from omni.errors import UserError
from omni.inference.talker_conditioning import Conditioner
from omni.losses import Loss
from omni.metrics import MeanOfItems
from omni.models.audio_encoder import AudioEncoder
from omni.models.part import Part
from omni.models.pretrained.thinker import PretrainedThinker
from omni.models.talker import Talker
from omni.models.thinker import Thinker
from omni.stages.example_batches import UNITS_PER_SECOND, largest_utterances
from omni.stages.reporting.transcripts import SpeechReporter, Transcript
from omni.stages.round_trip import RoundTrip
from omni.stages.stage import Stage
from omni.text.tokenizer import Tokenizer


@final
class TalkerTraining(Stage):
    """Cross-entropy of each frame's codes, and of the characters by which the text advances after it.

    Logs `train/loss` and `val/loss` (weighted, nats per frame), their terms by codebook and for the advance, and
    `val/perplexity` (of a code). Each validation speaks and transcribes held-out sentences: `val/round_trip_wer` is the
    word error rate of the transcripts. Its lower bounds are the recogniser's word error rate on the recordings
    (`val/recording_wer`) and on the codec's reconstructions of them (`val/codec_wer`).

    With a `thinker`, its hidden states condition the Talker, one for each character (after Qwen2.5-Omni,
    arXiv:2503.20215). It reads each sentence alone, is never trained, and is saved in the checkpoints.
    `init_from.talker` may then be a Talker that was trained without a Thinker.

    `init_from.talker` may also be of an earlier state of the codec, from which the data's was trained further
    (`init_from.codec` of `CodecTraining`): most entries of its codebooks keep their meaning.

    Codec and recogniser are those of the data (`data.init_args.codec` and `recognizer`). They are frozen, and saved in
    the Talker's checkpoints, which therefore need no others to speak. A checkpoint that was trained on the codes of
    another codec is refused.

    Args:
        talker: The model.
        thinker: Reads the sentences, for a Talker with a `thinker_dim`; filled by `init_from.thinker`.
        speech_codec: The codec, which `omni fit` takes from the data.
        recognizer: The recogniser, which `omni fit` takes from the data.
        codebook_weights: Weight of each codebook's loss; all 1 if not given.
        advance_weight: Weight of the advance's loss.
        sentences: Sentences spoken at each validation; 0 for none.
        shown: How many of them are shown in TensorBoard, and played by Griffin–Lim.
        sampling: How they are sampled.
        beam: Of the recogniser; see `SpeechRecognition`.
        kwargs: See `Stage`.
    """

    monitor = ("val/round_trip_wer", "min")
    no_effect = frozenset({"shown"})

    def __init__(
        self,
        talker: Talker,
        thinker: Thinker | PretrainedThinker | None = None,
        speech_codec: Part | None = None,
        recognizer: AudioEncoder | None = None,
        *,
        codebook_weights: Sequence[float] = (),
        advance_weight: float = 1.0,
        sentences: int = 64,
        shown: int = 4,
        sampling: SpeechSampling = SpeechSampling(),  # noqa: B008  immutable
        beam: int = 8,
        **kwargs: Any,
    ) -> None:
        given = {"thinker": thinker, "codec": speech_codec, "audio_encoder": recognizer}
        kwargs["frozen"] = sorted(
            {*kwargs.get("frozen", ()), *(name for name, part in given.items() if part is not None)}
        )
        super().__init__(**kwargs)
        weights = tuple(codebook_weights) or (1.0,) * talker.num_codebooks
        if len(weights) != talker.num_codebooks:
            raise ValueError(f"there are {len(weights)} codebook_weights, for {talker.num_codebooks} codebooks")
        if talker.thinker_dim != (0 if thinker is None else thinker.dim):
            raise UserError(
                f"the Talker's thinker_dim is {talker.thinker_dim}, and "
                + ("there is no model.init_args.thinker" if thinker is None else f"the Thinker's dim {thinker.dim}")
                + ": make them fit"
            )
        self.talker, self.thinker = talker, thinker
        self.codec: Any = speech_codec
        self.audio_encoder: Any = recognizer
        self._thinker_tokenizer: Tokenizer | None = None
        self._condition: Conditioner | None = None
        self.weights: Tensor
        self.register_buffer("weights", torch.tensor(weights), persistent=False)
        self.advance_weight = advance_weight
        self.num_sentences, self.shown = sentences, shown
        self.code_losses = nn.ModuleList(MeanOfItems() for _ in weights)
        self.advance_loss = MeanOfItems()
        self.round_trip = RoundTrip(sampling, beam)
        self.transcripts: list[Transcript] = []  # of the sentences spoken in the last validation
        self._init_codec: tuple[str, Lineage] | None = (
            None  # fingerprint and lineage of the codec of `init_from.talker`
        )

    @property
    def flops_per_work(self) -> float:
        """See `Talker.flops_per_second`."""
        return self.talker.flops_per_second

    # ------------------------------------------------------------------ parts

    def reads_tokens(self, name: str) -> bool:
        """All parts with a vocabulary but the Thinker, which has its own tokenizer."""
        return name != "thinker" and super().reads_tokens(name)

    def init_part(self, name: str, checkpoint: Checkpoint) -> None:
        """As in `Stage`; also keeps the Thinker's tokenizer, and the fingerprint of an earlier Talker's codec.

        A Talker that was trained without a Thinker starts with a condition of zero.
        """
        if name == "talker" and self.talker.condition is not None:
            unconditioned = torch.zeros_like(self.talker.condition.weight)
            checkpoint.weights.setdefault("talker.condition.weight", unconditioned)
        super().init_part(name, checkpoint)
        if name == "talker" and (codec := checkpoint.weights_of("codec")):
            self._init_codec = weights_fingerprint(codec), checkpoint.lineage_of("codec")
        if name == "thinker":
            self._thinker_tokenizer = checkpoint.tokenizer

    def setup(self, stage: str) -> None:
        """Checks that the Talker fits the codec, the recogniser and the speakers of the data."""
        if self.codec is None or self.audio_encoder is None:
            raise UserError("the Talker needs a codec and a recogniser: give data.init_args.codec and recognizer")
        super().setup(stage)
        self._check_init_codec()
        self._check_fit({"vocab_size": self.units.vocab_size}, "the recogniser's characters")
        names = ("num_codebooks", "codebook_size", "frame_rate")
        self._check_fit({name: getattr(self.codec, name) for name in names}, "the codec")
        num_speakers = len(self.data.speakers)
        if self.talker.num_speakers:
            self.data.keep_known_speakers()
            if num_speakers > self.talker.num_speakers:
                self._refuse("num_speakers", num_speakers, f"the {num_speakers} speakers of the data")
        elif num_speakers > 1:
            rank_zero_warn(f"the data has {num_speakers} speakers and the Talker a single voice: set its num_speakers")
        self.ancestors = {**self.ancestors, **self.data.encoder.ancestors}

    def _check_init_codec(self) -> None:
        """Refuses an `init_from.talker` of another codec, unless the data's was trained further from that one."""
        if self._init_codec is None or self._init_codec[0] == self._codec_fingerprint:
            return
        lineage: Any = self.data.encoder.codec_lineage
        while (lineage := lineage["ancestors"].get("codec")) is not None:
            if lineage == self._init_codec[1]:
                return
        raise UserError(
            "init_from.talker was trained on the codes of another codec than data.init_args.codec: give that "
            "checkpoint as data.init_args.codec too, or a codec that started from it"
        )

    def _check_fit(self, wanted: Mapping[str, float], what: str) -> None:
        for name, value in wanted.items():
            if getattr(self.talker, name) != value:
                self._refuse(name, value, what)

    def _refuse(self, name: str, value: float, what: str) -> None:
        raise UserError(
            f"the Talker's {name} is {getattr(self.talker, name):g}, which does not fit {what}: set "
            f"model.init_args.talker.init_args.{name} to {value:g}"
        )

    def check_checkpoint(self, checkpoint: Checkpoint) -> None:
        """As in `Stage`; the recogniser may be another, as it only aligns and scores."""
        self._check_codec(checkpoint)
        super().check_checkpoint(Checkpoint(checkpoint.path, self._with_own_recognizer(checkpoint)))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the names of the speakers, in the order of their numbers, and the Thinker's tokenizer."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["speakers"] = self._speakers
        if self._thinker_tokenizer is not None:
            checkpoint["thinker_tokenizer"] = self._thinker_tokenizer.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another codec or of other speakers. The recogniser stays the data's."""
        loaded = Checkpoint(self.trainer.ckpt_path or "", checkpoint)
        self._check_codec(loaded)
        if self.thinker is not None:
            self._thinker_tokenizer = loaded.thinker_tokenizer
        if checkpoint["speakers"] != self._speakers:
            raise UserError("the data's speakers are not those of this checkpoint: give the data it was trained on")
        checkpoint.update(self._with_own_recognizer(loaded))
        super().on_load_checkpoint(checkpoint)

    def _check_codec(self, checkpoint: Checkpoint) -> None:
        if weights_fingerprint(checkpoint.weights_of("codec")) != self._codec_fingerprint:
            raise UserError(
                "the checkpoint's Talker was trained on the codes of another codec than data.init_args.codec: give the "
                "checkpoint itself as data.init_args.codec"
            )

    @property
    def _codec_fingerprint(self) -> str:
        return weights_fingerprint(self.codec.state_dict())

    def _with_own_recognizer(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """A checkpoint's content with the weights of this stage's recogniser."""
        weights = {name: w for name, w in checkpoint.weights.items() if not name.startswith("audio_encoder.")}
        own = {f"audio_encoder.{name}": w for name, w in self.audio_encoder.state_dict().items()}
        return {**checkpoint.content, "state_dict": {**weights, **own}}

    @property
    def _speakers(self) -> list[str]:
        return list(self.data.speakers) if self.talker.num_speakers else []

    # ------------------------------------------------------------------ loss

    @property
    def _conditioner(self) -> Conditioner | None:
        if self.thinker is None:
            return None
        if self._thinker_tokenizer is None:
            raise UserError("model.init_args.thinker has no weights: give its checkpoint as init_from.thinker")
        if self._condition is None or self._condition.tokenizer is not self._thinker_tokenizer:
            # Made once, as it tabulates the bytes of all tokens.
            self._condition = Conditioner(self.thinker, self._thinker_tokenizer, self.units)
        return self._condition

    def _hidden(self, batch: CodesBatch) -> Tensor | None:
        if batch.hidden is not None or (condition := self._conditioner) is None:
            return batch.hidden
        return condition([units.tolist() for units in batch.spelled])

    def nll(self, batch: CodesBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Nats over all frames: of the codes by codebook (codebooks,), and of the advances; and the frames."""
        speakers = batch.speakers if self.talker.num_speakers else None
        inputs = (batch.text, batch.text_lengths, batch.codes, batch.advances)
        output = self.talker(*inputs, speakers=speakers, hidden=self._hidden(batch))
        codes = F.cross_entropy(output.code_logits.float().flatten(0, 2), batch.codes.flatten(), reduction="none")
        advance = F.cross_entropy(
            output.advance_logits.float().flatten(0, 1), batch.advances.flatten(), reduction="sum"
        )
        return codes.view(batch.codes.shape).sum((0, 1)), advance, (batch.advances != IGNORE).sum()

    def loss(self, batch: CodesBatch) -> Loss:
        """The sum over frames, codebooks and advances, as weighted."""
        codes, advance, frames = self.nll(batch)
        total = (codes * self.weights).sum() + self.advance_weight * advance
        means = {f"codebook_{number}": code / frames for number, code in enumerate(codes)}
        return Loss(total, frames, {**means, "advance": advance / frames})

    def example_batch(self, data: Mapping[str, Any]) -> CodesBatch:
        """As many of the longest utterances as `batch_seconds` holds, at 15 characters a second."""
        rows, seconds = largest_utterances(data, silence=data["silence"])
        frames, characters = math.ceil(seconds * self.talker.frame_rate), math.ceil(seconds * UNITS_PER_SECOND)
        return CodesBatch(
            text=torch.ones(rows, characters, dtype=torch.long),
            text_lengths=torch.full((rows,), characters),
            codes=torch.zeros(rows, frames, self.talker.num_codebooks, dtype=torch.long),
            advances=torch.zeros(rows, frames, dtype=torch.long),
            speakers=torch.zeros(rows, dtype=torch.long),
            rows=torch.zeros(rows, dtype=torch.long),
            seconds=float(rows * seconds),
            hidden=None if self.thinker is None else torch.zeros(rows, characters, self.thinker.dim),
        )

    # ------------------------------------------------------------------ evaluation

    def configure_callbacks(self) -> list[Callback]:
        return [SpeechReporter(self.shown)]

    def evaluate(self, batch: CodesBatch, split: str) -> None:
        codes, advance, frames = self.nll(batch)
        for metric, total in zip(self._losses, [*codes, advance], strict=True):
            metric.update(total, frames)

    @property
    def _losses(self) -> list[Any]:
        return [*self.code_losses, self.advance_loss]

    def compute_metrics(self, split: str) -> dict[str, Tensor]:
        *codes, advance = (metric.compute() for metric in self._losses)
        stacked = torch.stack(codes)
        total = (stacked * self.weights).sum() + self.advance_weight * advance
        values = {"loss": total, "perplexity": stacked.mean().exp(), "loss/advance": advance}
        values |= {f"loss/codebook_{number}": code for number, code in enumerate(codes)}
        if not self.num_sentences:
            return values
        rates, self.transcripts = self.round_trip.measure(
            split,
            self.data.held_out(split, self.num_sentences),
            talker=self.talker,
            codec=self.codec,
            recognizer=self.audio_encoder,
            units=self.units,
            condition=self._conditioner,
        )
        return values | rates
