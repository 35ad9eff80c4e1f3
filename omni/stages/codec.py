"""Stage D1: trains the codec, which turns speech into a few small integers per frame and back."""

from collections.abc import Mapping
from typing import Any, final

import torch
from lightning import Callback
from torch import Tensor
from torchmetrics.text import WordErrorRate

from omni.batch import SpeechBatch
from omni.distributed import sum_over_ranks
from omni.errors import UserError
from omni.layers.mask import length_mask
from omni.losses import Loss
from omni.media.audio import HOP_LENGTH
from omni.media.griffin_lim import GriffinLim
from omni.metrics import CodebookUse, Intelligibility, MeanOfItems
from omni.models.audio_encoder import AudioEncoder
from omni.models.codec import Codec, Reconstruction
from omni.stages.example_batches import speech_batch
from omni.stages.reporting.reconstructions import Reconstructed, ReconstructionReporter
from omni.stages.speech_quality import check_initialized, check_spectrograms, references_of, transcribe
from omni.stages.stage import Stage


@final
class CodecTraining(Stage):
    """Mean absolute and mean square error of the log-mel spectrogram, and the quantizer's commitment loss.

    Logs `train/loss` and `val/loss`, per mel frame, and:

    - `val/reconstruction_error`: mean square error, in units of the variance over time of the training spectrograms,
    - for each codebook `val/use/N`, the share of its entries in use, `val/perplexity/N` of its codes, and
      `val/gain/N`, the dB by which it lowers the error that the codebooks before it leave,
    - in training, the mean perplexity, dead entries, and entries revived so far,
    - with a recogniser `val/wer_original` and `val/wer_rebuilt`, its word error rates,
    - where validation data has waveforms, `val/stoi_original` and `val/stoi_rebuilt`, the intelligibility of both
      spectrograms, played by Griffin–Lim, against the recording.

    TensorBoard shows pairs of spectrograms at each validation, and plays them by Griffin–Lim.

    Args:
        codec: The model.
        audio_encoder: A recogniser, filled by `init_from.audio_encoder` and never trained here.
        commitment: Weight of the commitment loss.
        decoder_only: Whether encoder and codebooks stay those of `init_from.codec`: a Talker that was trained on their
            codes is still a start for one of this codec.
        quality_utterances: Number of utterances, the first of the validation data, that STOI is measured on.
        shown: Utterances shown at each validation.
        kwargs: See `Stage`.
    """

    mel_frames: Tensor
    mel_sums: Tensor
    mel_squares: Tensor

    monitor = ("val/reconstruction_error", "min")
    no_effect = frozenset({"shown"})

    def __init__(
        self,
        codec: Codec,
        audio_encoder: AudioEncoder | None = None,
        *,
        commitment: float = 0.25,
        decoder_only: bool = False,
        quality_utterances: int = 50,
        shown: int = 4,
        **kwargs: Any,
    ) -> None:
        if audio_encoder is not None:
            kwargs["frozen"] = sorted({*kwargs.get("frozen", ()), "audio_encoder"})
        super().__init__(**kwargs)
        self.codec, self.audio_encoder = codec, audio_encoder
        self.commitment, self.quality_utterances, self.shown = commitment, quality_utterances, shown
        self.decoder_only = decoder_only
        if decoder_only:
            codec.fix_codes()
        # fp32, as not every device has float64: after 100,000 batches the variance is off by less than 1e-5 of itself.
        self.register_buffer("mel_frames", torch.zeros((), dtype=torch.long))
        for name in ("mel_sums", "mel_squares"):
            self.register_buffer(name, torch.zeros(codec.num_mels))
        self.val_error = MeanOfItems()
        self.codebook_use = CodebookUse(codec.num_codebooks, codec.codebook_size)
        self.wer_original, self.wer_rebuilt = WordErrorRate(), WordErrorRate()
        self.stoi_original, self.stoi_rebuilt = Intelligibility(), Intelligibility()
        self.griffin_lim = GriffinLim(codec.num_mels)

    @property
    def flops_per_work(self) -> float:
        """See `Codec.flops_per_second`."""
        return self.codec.flops_per_second

    @property
    def mel_variance(self) -> Tensor:
        """Variance over time of the training spectrograms so far, averaged over mel filters: a scalar."""
        mean = self.mel_sums / self.mel_frames.clamp(min=1)
        variance = self.mel_squares / self.mel_frames.clamp(min=1) - mean.square()
        return variance.mean().clamp(min=1e-8)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        check_spectrograms(self)

    def on_train_start(self) -> None:
        super().on_train_start()
        check_initialized(self, {"audio_encoder": "measures the word error rate of rebuilt speech"})
        if self.decoder_only and "codec" not in self.ancestors:
            raise UserError("decoder_only keeps the codes of a trained codec: give its checkpoint as init_from.codec")

    # ------------------------------------------------------------------ loss

    def loss(self, batch: SpeechBatch) -> Loss:
        """The sum over mel frames."""
        if self.training:
            self._update_statistics(batch)
        total, squares, rebuilt = self._errors(batch)
        frames = batch.mel_lengths.sum()
        squares = squares.detach() / frames
        commitment = rebuilt.commitment.detach().sum() / self.codec.num_frames(batch.mel_lengths).sum()
        stats = {
            "reconstruction_error": (squares / self.mel_variance).float(),
            "padding": 1 - frames / (batch.mels.shape[0] * batch.mels.shape[1]),
            **self.codec.quantizer.usage,
        }
        return Loss(total, frames, terms={"mel_l2": squares, "commitment": commitment}, stats=stats)

    def _errors(self, batch: SpeechBatch) -> tuple[Tensor, Tensor, Reconstruction]:
        """Sums over mel frames of the loss and of the mean square error, and the reconstruction."""
        rebuilt = self.codec(batch.mels, batch.mel_lengths)
        mask = length_mask(batch.mel_lengths, batch.mels.shape[1])
        difference = rebuilt.mels - batch.mels
        squares = (difference.square().mean(-1) * mask).sum()
        absolute = (difference.abs().mean(-1) * mask).sum()
        commitment = rebuilt.commitment.repeat_interleave(self.codec.downsampling, dim=1)[:, : batch.mels.shape[1]]
        return absolute + squares + self.commitment * (commitment * mask).sum(), squares, rebuilt

    @torch.no_grad()
    def _update_statistics(self, batch: SpeechBatch) -> None:
        mels = batch.mels * length_mask(batch.mel_lengths, batch.mels.shape[1])[..., None]
        statistics = (batch.mel_lengths.sum()[None], mels.sum((0, 1)), mels.square().sum((0, 1)))
        sizes = [len(one) for one in statistics]
        frames, sums, squares = sum_over_ranks(torch.cat([one.to(self.mel_sums) for one in statistics])).split(sizes)
        self.mel_frames += frames[0].long()
        self.mel_sums += sums
        self.mel_squares += squares

    def example_batch(self, data: Mapping[str, Any]) -> SpeechBatch:
        return speech_batch(data)

    # ------------------------------------------------------------------ evaluation

    def configure_callbacks(self) -> list[Callback]:
        return [ReconstructionReporter(self.shown, self.codec.num_mels, tag="reconstruction")]

    def evaluate(self, batch: SpeechBatch, split: str) -> Reconstructed:
        total, squares, rebuilt = self._errors(batch)
        frames = batch.mel_lengths.sum()
        self.val_loss.update(total, frames)
        self.val_error.update(squares, frames)
        mask = length_mask(self.codec.num_frames(batch.mel_lengths), rebuilt.codes.shape[1])
        self.codebook_use.update(rebuilt.codes[mask], rebuilt.energies)
        mels = {"original": batch.mels, "rebuilt": rebuilt.mels}
        if batch.audio is not None and (chosen := batch.rows < self.quality_utterances).any():
            lengths = batch.mel_lengths[chosen] * HOP_LENGTH
            for name, metric in (("original", self.stoi_original), ("rebuilt", self.stoi_rebuilt)):
                metric.update(self.griffin_lim(mels[name][chosen]), batch.audio[chosen], lengths)
        return Reconstructed(rebuilt.mels, mels, audio={}, texts=self._transcripts(batch, mels))

    def _transcripts(self, batch: SpeechBatch, mels: Mapping[str, Tensor]) -> dict[str, list[str]]:
        """The text of each row and its transcripts, whose word errors are counted; empty without a recogniser."""
        if self.audio_encoder is None:
            return {}
        texts = {"reference": references_of(batch, self.units)}
        for name, metric in (("original", self.wer_original), ("rebuilt", self.wer_rebuilt)):
            texts[name] = transcribe(self.audio_encoder, self.units, mels[name], batch.mel_lengths)
            metric.update(texts[name], texts["reference"])
        return texts

    def compute_metrics(self, split: str) -> dict[str, Tensor]:
        error = (self.val_error.compute() / self.mel_variance).float()
        values = {"loss": self.val_loss.compute(), "reconstruction_error": error}
        if self.audio_encoder is not None:
            values |= {"wer_original": self.wer_original.compute(), "wer_rebuilt": self.wer_rebuilt.compute()}
        if self.quality_utterances and self.data.audio != "none":
            values |= {"stoi_original": self.stoi_original.compute(), "stoi_rebuilt": self.stoi_rebuilt.compute()}
        for name, codebooks in self.codebook_use.compute().items():
            values |= {f"{name}/{number}": value for number, value in enumerate(codebooks, start=1)}
        return values

    def predict_step(self, batch: SpeechBatch, batch_idx: int) -> list[Tensor]:
        """The codes of each row: (frames, num_codebooks)."""
        codes = self.codec.encode(batch.mels, batch.mel_lengths)
        lengths = self.codec.num_frames(batch.mel_lengths).tolist()
        return [row[:length].cpu() for row, length in zip(codes, lengths, strict=True)]
