"""Stage B: trains the audio encoder to transcribe speech, by CTC."""

from collections.abc import Mapping
from typing import Any, final

from lightning import Callback
from torch import Tensor
from torchmetrics.text import CharErrorRate, WordErrorRate

from omni.batch import SpeechBatch
from omni.decoding.ctc import ctc_nll, decode
from omni.errors import UserError
from omni.layers.mask import length_mask
from omni.losses import Loss, consistency_loss
from omni.models.audio_encoder import INTERMEDIATE_CTC_WEIGHT, AudioEncoder, AudioFeatures, Emissions
from omni.stages.example_batches import speech_batch
from omni.stages.reporting.transcripts import Recognition, TranscriptReporter
from omni.stages.speech_quality import references_of
from omni.stages.stage import Stage
from omni.text.ctc_vocabulary import BLANK


@final
class SpeechRecognition(Stage):
    """CTC of the units of the text (Graves et al., 2006).

    Logs `train/loss` and `val/loss` (nats per unit), `val/wer` and `val/cer` (of the normalised text), the share of
    blanks and the entropy of the emissions, and padding and infeasible rows of training batches. TensorBoard shows
    transcripts and spectrograms at each validation.

    With `intermediate_ctc_block`, the encoder's intermediate output is trained by CTC, too. Metrics other than
    `train/loss` and its terms are of the final output.

    With `consistency`, the encoder reads each utterance with two draws of the data's masks, CTC trains both outputs,
    and each of them approaches the other (CR-CTC, arXiv:2410.05101). It needs more masks than plain CTC.

    Args:
        audio_encoder: The model.
        intermediate_ctc_weight: Weight of the intermediate CTC loss in the training loss, in [0, 1).
        consistency: Weight of the divergence between the two outputs (nats per unit, both directions); 0: one draw.
            The paper's is 0.2.
        shown: Utterances shown at each validation.
        beam: Width of the beam search for transcripts; 1 takes the likeliest unit of each sub-frame.
        kwargs: See `Stage`.
    """

    monitor = ("val/wer", "min")
    no_effect = frozenset({"shown"})

    def __init__(
        self,
        audio_encoder: AudioEncoder,
        *,
        intermediate_ctc_weight: float = INTERMEDIATE_CTC_WEIGHT,
        consistency: float = 0.0,
        shown: int = 4,
        beam: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.audio_encoder = audio_encoder
        if beam < 1:
            raise ValueError(f"beam is {beam}: it must be 1 or more")
        if not 0 <= intermediate_ctc_weight < 1:
            raise ValueError(
                f"intermediate_ctc_weight is {intermediate_ctc_weight}: it must be 0 or more and less than 1"
            )
        if not 0 <= consistency < float("inf"):
            raise ValueError(f"consistency is {consistency}: it must be 0 or more")
        self.intermediate_ctc_weight, self.consistency = intermediate_ctc_weight, consistency
        self.shown, self.beam = shown, beam
        self.wer, self.cer = WordErrorRate(), CharErrorRate()

    @property
    def flops_per_work(self) -> float:
        """See `AudioEncoder.flops_per_second`."""
        return self.audio_encoder.flops_per_second

    def configure_data(self, data: Any) -> None:
        if self.consistency:
            data.mask_twice()

    def setup(self, stage: str) -> None:
        """Checks that encoder and data fit together, and leaves out utterances that are too short for their text."""
        super().setup(stage)
        encoder, data = self.audio_encoder, self.data
        if encoder.vocab_size != self.units.vocab_size:
            raise UserError(
                f"the data has {self.units.vocab_size} units, with blank, and the encoder "
                f"{encoder.vocab_size}: set model.init_args.audio_encoder.init_args.vocab_size to "
                f"{self.units.vocab_size}"
            )
        if encoder.num_mels != data.num_mels:
            raise UserError(
                f"data.init_args.num_mels is {data.num_mels} and the encoder's is {encoder.num_mels}: make them equal"
            )
        if data.crop:
            raise UserError("data.init_args.crop cuts speech without its text: set it to 0")
        self.configure_data(data)
        data.keep_feasible(encoder.num_subframes)

    def emit(self, batch: SpeechBatch) -> Emissions:
        """The output of the CTC head."""
        return self.audio_encoder.emit(self.audio_encoder(batch.mels, batch.mel_lengths))

    def loss(self, batch: SpeechBatch) -> Loss:
        """CTC, without infeasible rows, and the consistency of two views."""
        paired = batch.other_mels is not None
        batch = batch.both_views()
        features: AudioFeatures = self.audio_encoder(batch.mels, batch.mel_lengths)
        emissions = self.audio_encoder.emit(features)
        nll, feasible = ctc_nll(*emissions, batch.targets, batch.target_lengths)
        total, num_units = nll.sum(), (batch.target_lengths * feasible).sum()
        terms = {}
        if features.intermediate is not None:
            intermediate = ctc_nll(*features.intermediate, batch.targets, batch.target_lengths)[0].sum()
            terms = {"ctc": total.detach() / num_units, "intermediate_ctc": intermediate.detach() / num_units}
            total = (1 - self.intermediate_ctc_weight) * total + self.intermediate_ctc_weight * intermediate
        probs = emissions.log_probs.detach()
        valid = length_mask(emissions.lengths, probs.shape[1])
        if paired:
            terms.setdefault("ctc", nll.sum().detach() / num_units)
            first, second = emissions.log_probs.chunk(2)
            divergence = consistency_loss(first, second, (valid & feasible[:, None])[: len(first)])
            terms["consistency"] = divergence.detach() / num_units
            total = total + self.consistency * divergence
        entropy = -(probs.exp() * probs).sum(-1)
        stats = {
            "infeasible_rows": (~feasible).sum().float(),
            "padding": 1 - batch.mel_lengths.sum() / (batch.mels.shape[0] * batch.mels.shape[1]),
            "blank_share": ((probs.argmax(-1) == BLANK) & valid).sum() / valid.sum(),
            "entropy": (entropy * valid).sum() / valid.sum(),
        }
        return Loss(total, num_units, terms=terms, stats=stats)

    def example_batch(self, data: Mapping[str, Any]) -> SpeechBatch:
        if not self.consistency:
            return speech_batch(data)
        batch = speech_batch({**data, "batch_seconds": data["batch_seconds"] / 2})
        return batch._replace(other_mels=batch.mels)

    # ------------------------------------------------------------------ evaluation

    def configure_callbacks(self) -> list[Callback]:
        return [TranscriptReporter(self.shown)]

    def evaluate(self, batch: SpeechBatch, split: str) -> Recognition:
        emissions = self.emit(batch)
        nll, feasible = ctc_nll(*emissions, batch.targets, batch.target_lengths)
        self.val_loss.update(nll.sum(), (batch.target_lengths * feasible).sum())
        references, hypotheses = references_of(batch, self.units), self._transcripts(emissions)
        self.wer.update(hypotheses, references)
        self.cer.update(hypotheses, references)
        return Recognition(emissions, references, hypotheses)

    def compute_metrics(self, split: str) -> dict[str, Tensor]:
        return {"loss": self.val_loss.compute(), "wer": self.wer.compute(), "cer": self.cer.compute()}

    def predict_step(self, batch: SpeechBatch, batch_idx: int) -> list[str]:
        """The transcript of each row."""
        return self._transcripts(self.emit(batch))

    def _transcripts(self, emissions: Emissions) -> list[str]:
        return [self.units.decode(row) for row in decode(*emissions, beam=self.beam)]
