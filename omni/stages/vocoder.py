"""Stage D3: the vocoder learns to make sound of spectrograms."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.optim import Optimizer

from omni.batch import SpeechBatch
from omni.errors import UserError
from omni.losses import Loss, discriminator_hinge_loss, feature_matching_loss, generator_hinge_loss, spectral_distance
from omni.media.audio import HOP_LENGTH, SAMPLE_RATE, LogMel
from omni.media.griffin_lim import GriffinLim
from omni.metrics import MeanOfItems
from omni.models.audio_encoder import AudioEncoder
from omni.models.codec import Codec
from omni.models.discriminators import Discriminators
from omni.models.vocoder import Vocos
from omni.stages.figures import reconstruction_figure
from omni.stages.speech_quality import SoundQuality, check_borrowed, check_spectrograms, example_crops, taken, valid
from omni.stages.stage import Stage

_BORROWED = {
    "codec": "rebuild the spectrograms that the vocoder will be given",
    "audio_encoder": "tell whether the vocoder is understood",
}


@dataclass(frozen=True, kw_only=True)
class VocoderWeights:
    """Weights of the losses.

    Args:
        mel: Of the mean absolute error of the log-mel spectrogram.
        spectral: Of the distance of spectra at several resolutions.
        adversarial: Of what the discriminators find wrong.
        feature_matching: Of the distance in the discriminators' eyes.
    """

    mel: float = 15.0
    spectral: float = 2.0
    adversarial: float = 1.0
    feature_matching: float = 2.0


class _Sample(NamedTuple):
    mel: Tensor
    sounds: dict[str, Tensor]  # by what made them
    made: Tensor  # the log-mel of the vocoder's
    title: str


@final
class VocoderTraining(Stage):
    """Spectral distances from real speech, and discriminators that learn to tell it from the vocoder's.

    Vocoder and discriminators are trained in one backward pass and by one optimizer: discriminators hear the vocoder's
    sound twice, once cut off from the vocoder, to learn, and once with their own weights held, to teach. The gradient
    of either loss therefore reaches its own weights alone, and the step is that of two optimizers side by side. Unlike
    two of them it leaves steps, schedule, accumulation, fp16's scaling and resuming to Lightning, and it needs neither
    sound nor judgement of real speech a second time. Gradients are clipped for each of the two apart.

    Logs `train/loss` (a frame's, discriminators' included) and its parts; `val/loss` (without discriminators). Of
    some utterances `val/mel_distance` and `val/stoi` against the recording, with a recogniser `val/wer`, and beside
    each what Griffin–Lim reaches from the same spectrograms (`val/mel_distance_griffin_lim`, ...); with a codec all of
    these once more for the spectrograms that it rebuilds (`val/stoi_rebuilt`, `val/stoi_rebuilt_griffin_lim`, ...).

    Args:
        vocoder: The model.
        discriminators: What judges its sound.
        codec: Rebuilds spectrograms, as those that are spoken will be; `init_from.codec` must fill it. Never trained.
        audio_encoder: A recogniser, which `init_from.audio_encoder` must fill and which is never trained here.
        codec_share: Share of the training rows whose spectrogram the codec rebuilds.
        adversarial_start: Steps before discriminators take part.
        weights: Of the losses.
        measured: So many utterances of the validation data, the first ones, are compared with Griffin–Lim; 0: none.
        shown: Utterances shown at each validation.
        kwargs: See `Stage`.
    """

    uses_mels = True

    monitor = ("val/mel_distance", "min")
    no_effect = frozenset({"shown"})

    def __init__(
        self,
        vocoder: Vocos,
        discriminators: Discriminators,
        codec: Codec | None = None,
        audio_encoder: AudioEncoder | None = None,
        *,
        codec_share: float = 0.5,
        adversarial_start: int = 0,
        weights: VocoderWeights = VocoderWeights(),
        measured: int = 100,
        shown: int = 4,
        **kwargs: Any,
    ) -> None:
        if not 0 <= codec_share <= 1:
            raise ValueError(f"codec_share is {codec_share}: it must lie between 0 and 1")
        borrowed = [name for name, part in (("codec", codec), ("audio_encoder", audio_encoder)) if part is not None]
        kwargs["frozen"] = sorted({*kwargs.get("frozen", ()), *borrowed})
        super().__init__(**kwargs)
        self.vocoder, self.discriminators = vocoder, discriminators
        self.codec, self.audio_encoder = codec, audio_encoder
        self.codec_share = codec_share if codec is not None else 0.0
        self.adversarial_start, self.weights = adversarial_start, weights
        self.measured, self.num_samples = measured, shown
        self.log_mel, self.griffin_lim = LogMel(vocoder.num_mels), GriffinLim(vocoder.num_mels)
        self.val_loss = MeanOfItems()
        sources = ("", "_rebuilt") if codec is not None else ("",)
        makers = [f"made{source}{maker}" for source in sources for maker in ("", "_griffin_lim")] if measured else []
        understood = audio_encoder is not None
        self.quality = nn.ModuleDict({maker: SoundQuality(vocoder.num_mels, understood=understood) for maker in makers})
        self._floors: dict[str, dict[str, Tensor]] = {}  # Griffin–Lim's figures by split: they never change
        self._samples: list[_Sample] = []

    @property
    def flops_per_work(self) -> float:
        """See `Vocos.flops_per_second`; the discriminators' own are left out."""
        return self.vocoder.flops_per_second

    @property
    def adversarial(self) -> bool:
        """Whether discriminators take part now; without a trainer they do, as what they need is planned then."""
        return self._trainer is None or self.global_step >= self.adversarial_start

    def setup(self, stage: str) -> None:
        """Checks that parts and data speak of the same spectrograms and units, and that there will be sound."""
        super().setup(stage)
        check_spectrograms(self)
        data: Any = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        if stage != "predict" and data.audio != "all":
            raise UserError(f"data.init_args.audio is {data.audio}: a vocoder learns from waveforms, set it to all")

    def on_train_start(self) -> None:
        """Refuses a codec or recogniser that has never been trained."""
        super().on_train_start()
        check_borrowed(self, _BORROWED)

    # ------------------------------------------------------------------ loss

    def loss(self, batch: SpeechBatch) -> Loss:
        """The mean over frames, times their number."""
        audio = _audio_of(batch)
        made = self.vocoder(self._given(batch.mels, batch.mel_lengths), batch.mel_lengths)
        frames = batch.mel_lengths.sum()
        total, terms = self._distance(made, audio, batch.mel_lengths)
        stats = {"padding": 1 - frames / batch.mels.shape[:2].numel()}
        if self.adversarial:
            judged, more, scores = self._judged(made, audio)
            total, terms, stats = total + judged, terms | more, stats | scores
        elif self.trainer.world_size > 1:  # ranks wait for a gradient of every weight
            total = total + 0 * sum(weight.sum() for weight in self.discriminators.parameters())
        return Loss(total * frames, frames, terms=terms, stats=stats)

    @torch.no_grad()
    def _given(self, mels: Tensor, lengths: Tensor) -> Tensor:
        """The spectrograms that the vocoder gets in training: some of them rebuilt."""
        if self.codec is None or not self.codec_share or not self.training:
            return mels
        rebuilt = torch.rand(len(mels), 1, 1, device=mels.device) < self.codec_share
        return torch.where(rebuilt, self.codec(mels, lengths).mels, mels)

    def _distance(self, made: Tensor, audio: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """How far made sound is from real sound, weighted, and the parts of that."""
        mask = valid(lengths, made.shape[1] // HOP_LENGTH)
        apart = (self.log_mel(made) - self.log_mel(audio)).abs().mean(-1)
        mel = (apart * mask).sum() / mask.sum()
        spectral = spectral_distance(made, audio)
        return self.weights.mel * mel + self.weights.spectral * spectral, {"mel": mel, "spectral": spectral}

    def _judged(self, made: Tensor, audio: Tensor) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The losses of vocoder and discriminators from one another, their parts, and mean scores."""
        rows = len(audio)
        learned = self.discriminators(torch.cat((audio, made.detach())))
        real, copied = learned.rows(slice(rows)), learned.rows(slice(rows, None))
        with frozen_parameters(self.discriminators):
            taught = self.discriminators(made)
        terms = {
            "discriminators": discriminator_hinge_loss(real.scores, copied.scores),
            "adversarial": generator_hinge_loss(taught.scores),
            "feature_matching": feature_matching_loss(real.features, taught.features),
        }
        total = terms["discriminators"] + self.weights.adversarial * terms["adversarial"]
        total = total + self.weights.feature_matching * terms["feature_matching"]
        means = {name: torch.stack([score.mean() for score in judged.scores]).mean().detach()
                 for name, judged in (("score_real", real), ("score_made", copied))}  # fmt: skip
        return total, terms, means

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """As in `Stage`; discriminators that do not take part yet have no gradient, on several ranks as on one."""
        if not self.adversarial:
            self.discriminators.zero_grad(set_to_none=True)
        super().on_before_optimizer_step(optimizer)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the vocoder's gradients and the discriminators' apart: neither is to shrink the other's."""
        if not gradient_clip_val:
            return
        for part in (self.vocoder, self.discriminators):
            if gradient_clip_algorithm == "value":
                nn.utils.clip_grad_value_(part.parameters(), gradient_clip_val)
            else:
                nn.utils.clip_grad_norm_(part.parameters(), gradient_clip_val)

    def example_batch(self, data: Mapping[str, Any]) -> SpeechBatch:
        """See `example_crops`."""
        return example_crops(data, audio=True)

    # ------------------------------------------------------------------ validation

    def on_validation_epoch_start(self) -> None:
        """Forgets the samples of the last validation."""
        self._samples = []

    def validation_step(self, batch: SpeechBatch, batch_idx: int) -> None:
        """Adds a batch to the metrics."""
        self._validate(batch, "val")

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics and shows samples."""
        self._log_metrics("val")
        if isinstance(self.logger, TensorBoardLogger) and self.trainer.is_global_zero:
            self._show_samples(self.logger.experiment)

    def test_step(self, batch: SpeechBatch, batch_idx: int) -> None:
        """As in validation."""
        self._validate(batch, "test")

    def on_test_epoch_end(self) -> None:
        """Logs under `test/` what validation logs under `val/`."""
        self._log_metrics("test")

    def predict_step(self, batch: SpeechBatch, batch_idx: int) -> list[Tensor]:
        """The sound of each row: (samples,)."""
        lengths = (batch.mel_lengths * HOP_LENGTH).tolist()
        return [row[:n].cpu() for row, n in zip(self.vocoder(batch.mels, batch.mel_lengths), lengths, strict=True)]

    def _validate(self, batch: SpeechBatch, split: str) -> None:
        made, audio = self.vocoder(batch.mels, batch.mel_lengths), _audio_of(batch)
        for row, frames in enumerate(batch.mel_lengths.tolist()):  # each without its padding, whatever batch it is in
            one = slice(row, row + 1)
            samples = slice(frames * HOP_LENGTH)
            distance, _ = self._distance(made[one, samples], audio[one, samples], batch.mel_lengths[one])
            self.val_loss.update(distance * frames, batch.mel_lengths[row])
        measured = (batch.rows < self.measured).nonzero().flatten().tolist()
        if measured:
            self._compare(taken(batch, measured), split)

    def _compare(self, batch: SpeechBatch, split: str) -> None:
        """Measures the vocoder and Griffin–Lim on the same spectrograms, and keeps a sample."""
        given = {"": batch.mels}
        if self.codec is not None:
            given["_rebuilt"] = self.codec(batch.mels, batch.mel_lengths).mels
        shown = len(self._samples) < self.num_samples  # one of each batch, so that short and long ones are seen
        sounds, length = {}, int(batch.mel_lengths[0])
        for source, mels in given.items():
            made = self.vocoder(mels, batch.mel_lengths)
            heard = self._quality(f"made{source}").update(made, batch, self.audio_encoder, self._units)
            sounds[f"vocoder{source}"] = made[0]
            if split not in self._floors or shown:
                made = self.griffin_lim(mels)
                sounds[f"griffin_lim{source}"] = made[0]
            if split not in self._floors:
                self._quality(f"made{source}_griffin_lim").update(made, batch, self.audio_encoder, self._units)
            if shown and not source:
                title = f"row {int(batch.rows[0])}" + "".join(f"\nheard: {text}" for text in heard.texts[:1])
                sample = _Sample(batch.mels[0, :length].cpu(), sounds, heard.mels[0, :length].cpu(), title)
                self._samples.append(sample)
        sounds["recording"] = _audio_of(batch)[0]
        for name, sound in sounds.items():
            sounds[name] = sound[: length * HOP_LENGTH].float().cpu()

    @property
    def _units(self) -> Any:
        return None if self.audio_encoder is None else self.tokenizer

    def _quality(self, name: str) -> Any:
        return self.quality[name]

    def _log_metrics(self, split: str) -> None:
        values = {f"{split}/loss": self.val_loss.compute()}
        self.val_loss.reset()
        first = split not in self._floors
        floors = self._floors.setdefault(split, {})
        for maker, quality in self.quality.items():
            suffix = maker.removeprefix("made")
            if not maker.endswith("_griffin_lim"):
                values |= {f"{split}/{name}{suffix}": value for name, value in _result(quality).items()}
            elif first:
                floors |= {f"{split}/{name}{suffix}": value for name, value in _result(quality).items()}
        self.log_dict(values | floors, prog_bar=False, sync_dist=True)

    def _show_samples(self, writer: Any) -> None:
        for number, sample in enumerate(self._samples):
            figure = reconstruction_figure(sample.mel, sample.made, title=sample.title)
            writer.add_figure(f"val/spectrogram/{number}", figure, self.global_step)
            for name, sound in sample.sounds.items():
                writer.add_audio(f"val/{name}/{number}", sound[None], self.global_step, SAMPLE_RATE)


def _result(quality: Any) -> dict[str, Tensor]:
    return quality.result()


def _audio_of(batch: SpeechBatch) -> Tensor:
    """The sound of a batch, which must have some."""
    if batch.audio is None:
        raise UserError("the data hands no waveforms: set data.init_args.audio to all")
    return batch.audio


@contextmanager
def frozen_parameters(part: nn.Module) -> Iterator[None]:
    """Weights that are trained count as constants for a while."""
    trained = [weight for weight in part.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)
