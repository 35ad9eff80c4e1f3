"""Stage D1: the codec learns to write speech in a few small integers, and to read them again."""

from collections.abc import Mapping
from typing import Any, NamedTuple, final

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchmetrics.text import WordErrorRate

from omni.batch import SpeechBatch
from omni.distributed import sum_over_ranks
from omni.losses import Loss
from omni.media.audio import HOP_LENGTH, SAMPLE_RATE
from omni.media.griffin_lim import GriffinLim
from omni.metrics import CodebookUse, Intelligibility, MeanOfItems
from omni.models.audio_encoder import AudioEncoder
from omni.models.codec import Codec, Reconstruction
from omni.stages.figures import reconstruction_figure
from omni.stages.speech_quality import check_borrowed, check_spectrograms, example_crops, said, transcribed, valid
from omni.stages.stage import Stage


class _Sample(NamedTuple):
    original: Tensor
    rebuilt: Tensor
    title: str


@final
class CodecTraining(Stage):
    """Mean absolute and mean square error of the log-mel spectrogram, and the quantizer's commitment.

    Logs `train/loss` and `val/loss` (of a mel frame); `val/reconstruction_error`, the mean square error in units of the
    variance of the training spectrograms' filters over time; for each codebook at validation the share of entries in
    use, the perplexity of its codes, and by how many dB it lowers what the ones before it left; in training the mean
    perplexity, dead entries and entries revived so far. With a recogniser, `val/wer_original` and `val/wer_rebuilt`:
    the share of words that it gets wrong, of the spectrograms and of what the codec makes of them. Where the data hands
    waveforms to validation, `val/stoi_original` and `val/stoi_rebuilt`: how intelligible either is by Griffin–Lim,
    against the recording. At each validation TensorBoard gets pairs of spectrograms, and their sound by Griffin–Lim.

    Args:
        codec: The model.
        audio_encoder: A recogniser, which `init_from.audio_encoder` must fill and which is never trained here.
        commitment: Weight of the commitment loss.
        measured: So many utterances of the validation data, the first ones, are made sound of and measured; 0: none.
        shown: Utterances shown at each validation.
        kwargs: See `Stage`.
    """

    uses_mels = True
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
        measured: int = 50,
        shown: int = 4,
        **kwargs: Any,
    ) -> None:
        if audio_encoder is not None:
            kwargs["frozen"] = sorted({*kwargs.get("frozen", ()), "audio_encoder"})
        super().__init__(**kwargs)
        self.codec, self.audio_encoder = codec, audio_encoder
        self.commitment, self.measured, self.num_samples = commitment, measured, shown
        # fp32, as not every device has float64: after 100,000 batches the variance is off by less than 1e-5 of itself.
        self.register_buffer("mel_frames", torch.zeros((), dtype=torch.long))
        for name in ("mel_sums", "mel_squares"):
            self.register_buffer(name, torch.zeros(codec.num_mels))
        self.val_loss, self.val_error = MeanOfItems(), MeanOfItems()
        self.val_use = CodebookUse(codec.num_codebooks, codec.codebook_size)
        self.wer_original, self.wer_rebuilt = WordErrorRate(), WordErrorRate()
        self.stoi_original, self.stoi_rebuilt = Intelligibility(), Intelligibility()
        self.griffin_lim = GriffinLim(codec.num_mels)
        self._samples: list[_Sample] = []

    @property
    def flops_per_work(self) -> float:
        """See `Codec.flops_per_second`."""
        return self.codec.flops_per_second

    @property
    def mel_variance(self) -> Tensor:
        """Variance over time of a mel filter's values in training so far, on average over filters: a scalar."""
        mean = self.mel_sums / self.mel_frames.clamp(min=1)
        variance = self.mel_squares / self.mel_frames.clamp(min=1) - mean.square()
        return variance.mean().clamp(min=1e-8)

    def setup(self, stage: str) -> None:
        """Checks that parts and data speak of the same spectrograms and units."""
        super().setup(stage)
        check_spectrograms(self)

    def on_train_start(self) -> None:
        """Refuses a recogniser that has never been trained."""
        super().on_train_start()
        check_borrowed(self, {"audio_encoder": "tell whether rebuilt speech is understood"})

    # ------------------------------------------------------------------ loss

    def loss(self, batch: SpeechBatch) -> Loss:
        """The sum over mel frames."""
        if self.training:
            self._measure(batch)
        total, squares, rebuilt = self._total(batch)
        frames = batch.mel_lengths.sum()
        squares = squares.detach() / frames
        stats = {
            "reconstruction_error": (squares / self.mel_variance).float(),
            "padding": 1 - frames / (batch.mels.shape[0] * batch.mels.shape[1]),
            **self.codec.quantizer.usage,
        }
        return Loss(
            total, frames, terms={"mel_l2": squares, "commitment": self._commitment(rebuilt, batch)}, stats=stats
        )

    def _total(self, batch: SpeechBatch) -> tuple[Tensor, Tensor, Reconstruction]:
        """Sums over mel frames: the loss, and the mean square error of a frame."""
        rebuilt = self.codec(batch.mels, batch.mel_lengths)
        mask = valid(batch.mel_lengths, batch.mels.shape[1])
        difference = rebuilt.mels - batch.mels
        squares = (difference.square().mean(-1) * mask).sum()
        absolute = (difference.abs().mean(-1) * mask).sum()
        spread = rebuilt.commitment.repeat_interleave(self.codec.downsampling, dim=1)[:, : batch.mels.shape[1]]
        return absolute + squares + self.commitment * (spread * mask).sum(), squares, rebuilt

    def _commitment(self, rebuilt: Reconstruction, batch: SpeechBatch) -> Tensor:
        return rebuilt.commitment.detach().sum() / self.codec.num_frames(batch.mel_lengths).sum()

    @torch.no_grad()
    def _measure(self, batch: SpeechBatch) -> None:
        mels = batch.mels * valid(batch.mel_lengths, batch.mels.shape[1])[..., None]
        measured = (batch.mel_lengths.sum()[None], mels.sum((0, 1)), mels.square().sum((0, 1)))
        sizes = [len(one) for one in measured]
        frames, sums, squares = sum_over_ranks(torch.cat([one.to(self.mel_sums) for one in measured])).split(sizes)
        self.mel_frames += frames[0].long()
        self.mel_sums += sums
        self.mel_squares += squares

    def example_batch(self, data: Mapping[str, Any]) -> SpeechBatch:
        """See `example_crops`."""
        return example_crops(data)

    # ------------------------------------------------------------------ validation

    def on_validation_epoch_start(self) -> None:
        """Forgets the samples of the last validation."""
        self._samples = []

    def validation_step(self, batch: SpeechBatch, batch_idx: int) -> None:
        """Adds a batch to the metrics."""
        total, squares, rebuilt = self._total(batch)
        frames = batch.mel_lengths.sum()
        self.val_loss.update(total, frames)
        self.val_error.update(squares, frames)
        mask = valid(self.codec.num_frames(batch.mel_lengths), rebuilt.codes.shape[1])
        self.val_use.update(rebuilt.codes[mask], rebuilt.energies)
        title = f"row {int(batch.rows[0])}"
        if self.audio_encoder is not None:
            title = self._understand(batch, rebuilt.mels)
        if batch.audio is not None:
            self._listen(batch, batch.audio, rebuilt.mels)
        if len(self._samples) < self.num_samples:  # one of each batch, so that short and long ones are seen
            length = int(batch.mel_lengths[0])
            self._samples.append(_Sample(batch.mels[0, :length].cpu(), rebuilt.mels[0, :length].cpu(), title))

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics and shows samples."""
        self._log_metrics("val")
        if isinstance(self.logger, TensorBoardLogger) and self.trainer.is_global_zero and self._samples:
            self._show_samples(self.logger.experiment)

    def test_step(self, batch: SpeechBatch, batch_idx: int) -> None:
        """As in validation."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Logs under `test/` what validation logs under `val/`."""
        self._log_metrics("test")

    def predict_step(self, batch: SpeechBatch, batch_idx: int) -> list[Tensor]:
        """The codes of each row: (frames, num_codebooks)."""
        codes = self.codec.encode(batch.mels, batch.mel_lengths)
        lengths = self.codec.num_frames(batch.mel_lengths).tolist()
        return [row[:length].cpu() for row, length in zip(codes, lengths, strict=True)]

    def _understand(self, batch: SpeechBatch, rebuilt: Tensor) -> str:
        """Counts the words that the recogniser gets wrong, and returns what it hears in the first row."""
        assert self.audio_encoder is not None
        units: Any = self.tokenizer
        references = said(units, batch)
        heard = []
        for mels, metric in ((batch.mels, self.wer_original), (rebuilt, self.wer_rebuilt)):
            heard.append(transcribed(self.audio_encoder, units, mels, batch.mel_lengths))
            metric.update(heard[-1], references)
        return f"said: {references[0]}\nheard: {heard[0][0]}\nrebuilt: {heard[1][0]}"

    def _listen(self, batch: SpeechBatch, audio: Tensor, rebuilt: Tensor) -> None:
        """Measures what can be made out of both spectrograms' sound."""
        measured = batch.rows < self.measured
        if not measured.any():
            return
        lengths = batch.mel_lengths[measured] * HOP_LENGTH
        for mels, metric in ((batch.mels, self.stoi_original), (rebuilt, self.stoi_rebuilt)):
            metric.update(self.griffin_lim(mels[measured]), audio[measured], lengths)

    def _log_metrics(self, split: str) -> None:
        metrics: dict[str, Any] = {"loss": self.val_loss, "reconstruction_error": self.val_error}
        if self.audio_encoder is not None:
            metrics |= {"wer_original": self.wer_original, "wer_rebuilt": self.wer_rebuilt}
        data: Any = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        if self.measured and data.audio != "none":
            metrics |= {"stoi_original": self.stoi_original, "stoi_rebuilt": self.stoi_rebuilt}
        values = {f"{split}/{name}": metric.compute() for name, metric in metrics.items()}
        values[f"{split}/reconstruction_error"] = (values[f"{split}/reconstruction_error"] / self.mel_variance).float()
        self.log_dict(values, prog_bar=True, sync_dist=True)
        use = self.val_use.compute()
        levels = {f"{split}/{what}/{level + 1}": value for what, row in use.items() for level, value in enumerate(row)}
        self.log_dict(levels, sync_dist=True)
        for metric in (*metrics.values(), self.val_use):
            metric.reset()

    def _show_samples(self, writer: Any) -> None:
        for number, sample in enumerate(self._samples):
            figure = reconstruction_figure(sample.original, sample.rebuilt, title=sample.title)
            writer.add_figure(f"val/reconstruction/{number}", figure, self.global_step)
            for name in ("original", "rebuilt"):
                (audio,) = self.griffin_lim(getattr(sample, name)[None].to(self.device))
                writer.add_audio(f"val/{name}/{number}", audio[None].cpu(), self.global_step, SAMPLE_RATE)
