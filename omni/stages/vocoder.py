"""Stage D3: trains the vocoder, which turns spectrograms into sound."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from lightning import Callback
from torch import Tensor, nn
from torch.optim import Optimizer

from omni.batch import SpeechBatch
from omni.errors import UserError
from omni.layers.mask import length_mask
from omni.losses import Loss, discriminator_hinge_loss, feature_matching_loss, generator_hinge_loss, spectral_distance
from omni.media.audio import SAMPLE_RATE, LogMel
from omni.media.griffin_lim import GriffinLim
from omni.media.mel_scale import samples_of
from omni.media.resampling import resample
from omni.models.audio_encoder import AudioEncoder
from omni.models.codec import Codec
from omni.models.discriminators import Discriminators
from omni.models.vocoder import Vocos
from omni.models.waveform_refiner import WaveformRefiner
from omni.stages.example_batches import speech_batch
from omni.stages.reporting.reconstructions import Reconstructed, ReconstructionReporter
from omni.stages.speech_quality import (
    SoundQuality,
    check_initialized,
    check_spectrograms,
    select_rows,
)
from omni.stages.stage import Stage

_N_FFTS = (256, 512, 1024)  # frame lengths at 16 kHz of the spectra that are compared
_SUFFIXES = {"original": "", "rebuilt": "_rebuilt"}  # of logged names, by the spectrograms that are read


@dataclass(frozen=True, kw_only=True)
class VocoderWeights:
    """Weights of the losses.

    Args:
        mel: Of the mean absolute error of the log-mel spectrogram, up to half the sample rate of the vocoder.
        spectral: Of the distance of spectra at several resolutions.
        adversarial: Of the generator's hinge loss.
        feature_matching: Of the distance of the discriminators' features.
    """

    mel: float = 15.0
    spectral: float = 2.0
    adversarial: float = 1.0
    feature_matching: float = 2.0


@final
class VocoderTraining(Stage):
    """Spectral distances to real speech, and a discriminator loss.

    Vocoder and discriminators are trained in one backward pass, by one optimizer. The discriminators read the vocoder's
    output twice: detached, for their own loss, and with their weights frozen, for the vocoder's loss. The gradient of
    each loss therefore reaches its own weights alone, as with two optimizers. Unlike with two, steps, schedule,
    accumulation, fp16 scaling and resuming are Lightning's, and neither the output nor the features of real speech are
    computed twice. The gradients of the two are clipped separately.

    Logs `train/loss` (per frame, with the discriminators' own loss) and its terms, and `val/loss` (without
    discriminators). For some utterances it logs `val/mel_distance` and `val/stoi` against the recording, with a
    recogniser `val/wer`, and the same for Griffin–Lim on the same spectrograms (`val/mel_distance_griffin_lim`, ...).
    With `refine`, also for the refined waveforms (`val/stoi_refined`, ...). With a codec, all of these also for the
    spectrograms that it rebuilds (`val/stoi_rebuilt`, `val/stoi_rebuilt_griffin_lim`, ...).

    A vocoder of 24 kHz reads the spectrograms of the recordings at 16 kHz and is trained on the recordings at 24 kHz.
    Its metrics are those of its output at 16 kHz, as Griffin–Lim's; its losses are those of all of its band.

    Args:
        vocoder: The model.
        discriminators: The discriminators.
        codec: Rebuilds spectrograms, as in speech synthesis; filled by `init_from.codec` and never trained here.
        audio_encoder: A recogniser, filled by `init_from.audio_encoder` and never trained here.
        codec_share: Share of the training rows whose spectrogram the codec rebuilds.
        adversarial_start: Steps before discriminators take part.
        weights: Of the losses.
        quality_utterances: Number of utterances, the first of the validation data, that are compared with Griffin–Lim.
        refine: Iterations of a `WaveformRefiner` for these utterances, as in `omni speak --refine`; 0: none.
        shown: Utterances shown at each validation.
        kwargs: See `Stage`.
    """

    monitor = ("val/mel_distance", "min")
    no_effect = frozenset({"refine", "shown"})

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
        quality_utterances: int = 100,
        refine: int = 0,
        shown: int = 4,
        **kwargs: Any,
    ) -> None:
        if not 0 <= codec_share <= 1:
            raise ValueError(f"codec_share is {codec_share}: it must lie between 0 and 1")
        pretrained = [name for name, part in (("codec", codec), ("audio_encoder", audio_encoder)) if part is not None]
        kwargs["frozen"] = sorted({*kwargs.get("frozen", ()), *pretrained})
        super().__init__(**kwargs)
        self.vocoder, self.discriminators, self.sample_rate = vocoder, discriminators, vocoder.sample_rate
        self.codec, self.audio_encoder = codec, audio_encoder
        self.codec_share = codec_share if codec is not None else 0.0
        self.adversarial_start, self.weights = adversarial_start, weights
        self.quality_utterances, self.shown = quality_utterances, shown
        self.log_mel, self.griffin_lim = LogMel(vocoder.num_mels), GriffinLim(vocoder.num_mels)
        self.output_mel = LogMel(vocoder.num_mels, sample_rate=vocoder.sample_rate)  # of the losses
        inputs = ("original", "rebuilt") if codec is not None else ("original",)

        def qualities() -> nn.ModuleDict:
            with_wer = audio_encoder is not None
            return nn.ModuleDict({name: SoundQuality(vocoder.num_mels, with_wer=with_wer) for name in inputs})

        # By the spectrograms that are read.
        self.quality, self.griffin_lim_quality, self.refined_quality = qualities(), qualities(), qualities()
        self.refiner = None
        if refine:
            self.refiner = WaveformRefiner(vocoder.num_mels, refine, sample_rate=vocoder.sample_rate)
        self._griffin_lim_values: dict[str, dict[str, Tensor]] = {}  # by split; they never change

    @property
    def flops_per_work(self) -> float:
        """See `Vocos.flops_per_second`; without the discriminators."""
        return self.vocoder.flops_per_second

    @property
    def adversarial(self) -> bool:
        """Whether discriminators take part in this step; always without a trainer, for `omni plan`."""
        return self._trainer is None or self.global_step >= self.adversarial_start

    def setup(self, stage: str) -> None:
        super().setup(stage)
        check_spectrograms(self)
        if stage != "predict" and self.data.audio != "all":
            raise UserError(f"data.init_args.audio is {self.data.audio}: a vocoder needs waveforms, set it to all")
        if stage != "predict":
            self.data.read_at(self.sample_rate)

    def on_train_start(self) -> None:
        super().on_train_start()
        purposes = {"codec": "rebuilds spectrograms", "audio_encoder": "measures the word error rate"}
        check_initialized(self, purposes)

    # ------------------------------------------------------------------ loss

    def loss(self, batch: SpeechBatch) -> Loss:
        """The mean over frames, times their number."""
        audio = _audio_of(batch)
        generated = self.vocoder(self._training_mels(batch.mels, batch.mel_lengths), batch.mel_lengths)
        frames = batch.mel_lengths.sum()
        total, terms = self._distance(generated, audio, batch.mel_lengths)
        stats = {"padding": 1 - frames / batch.mels.shape[:2].numel()}
        if self.adversarial:
            adversarial, more, scores = self._adversarial_loss(generated, audio)
            total, terms, stats = total + adversarial, terms | more, stats | scores
        elif self.trainer.world_size > 1:  # ranks wait for a gradient of every weight
            total = total + 0 * sum(weight.sum() for weight in self.discriminators.parameters())
        return Loss(total * frames, frames, terms=terms, stats=stats)

    @torch.no_grad()
    def _training_mels(self, mels: Tensor, lengths: Tensor) -> Tensor:
        """The spectrograms that the vocoder reads; in training the codec rebuilds some of them."""
        if self.codec is None or not self.codec_share or not self.training:
            return mels
        rebuilt = torch.rand(len(mels), 1, 1, device=mels.device) < self.codec_share
        return torch.where(rebuilt, self.codec(mels, lengths).mels, mels)

    def _distance(self, generated: Tensor, audio: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted distance of generated from real audio, and its terms."""
        mask = length_mask(lengths, generated.shape[1] // self.output_mel.hop_length)
        difference = (self.output_mel(generated) - self.output_mel(audio)).abs().mean(-1)
        mel = (difference * mask).sum() / mask.sum()
        n_ffts = [samples_of(n_fft, self.sample_rate) for n_fft in _N_FFTS]
        spectral = spectral_distance(generated, audio, n_ffts=n_ffts)
        return self.weights.mel * mel + self.weights.spectral * spectral, {"mel": mel, "spectral": spectral}

    def _adversarial_loss(
        self, generated: Tensor, audio: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The losses of vocoder and discriminators against each other, their terms, and mean scores."""
        rows = len(audio)
        both = self.discriminators(torch.cat((audio, generated.detach())))
        real, fake = both.rows(slice(rows)), both.rows(slice(rows, None))
        with frozen_parameters(self.discriminators):
            judged = self.discriminators(generated)
        terms = {
            "discriminators": discriminator_hinge_loss(real.scores, fake.scores),
            "adversarial": generator_hinge_loss(judged.scores),
            "feature_matching": feature_matching_loss(real.features, judged.features),
        }
        total = terms["discriminators"] + self.weights.adversarial * terms["adversarial"]
        total = total + self.weights.feature_matching * terms["feature_matching"]
        scores = {"score_real": real.scores, "score_made": fake.scores}
        return total, terms, {name: _mean_score(each) for name, each in scores.items()}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Leaves discriminators that do not take part without a gradient, on several ranks as on one."""
        if not self.adversarial:
            self.discriminators.zero_grad(set_to_none=True)
        super().on_before_optimizer_step(optimizer)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the gradients of vocoder and discriminators separately, so that neither scales the other's."""
        if not gradient_clip_val:
            return
        for part in (self.vocoder, self.discriminators):
            if gradient_clip_algorithm == "value":
                nn.utils.clip_grad_value_(part.parameters(), gradient_clip_val)
            else:
                nn.utils.clip_grad_norm_(part.parameters(), gradient_clip_val)

    def example_batch(self, data: Mapping[str, Any]) -> SpeechBatch:
        return speech_batch(data, audio=True, hop_length=self.output_mel.hop_length)

    # ------------------------------------------------------------------ evaluation

    def configure_callbacks(self) -> list[Callback]:
        return [ReconstructionReporter(self.shown, self.vocoder.num_mels, tag="spectrogram")]

    def evaluate(self, batch: SpeechBatch, split: str) -> Reconstructed | None:
        generated, audio = self.vocoder(batch.mels, batch.mel_lengths), _audio_of(batch)
        for row, frames in enumerate(batch.mel_lengths.tolist()):  # without padding: the same in any batch
            one, samples = slice(row, row + 1), slice(frames * self.output_mel.hop_length)
            distance, _ = self._distance(generated[one, samples], audio[one, samples], batch.mel_lengths[one])
            self.val_loss.update(distance * frames, batch.mel_lengths[row])
        chosen = (batch.rows < self.quality_utterances).nonzero().flatten().tolist()
        return self._compare(select_rows(batch, chosen), split) if chosen else None

    def _compare(self, batch: SpeechBatch, split: str) -> Reconstructed:
        """Updates the quality of the vocoder and, in the first validation, of Griffin–Lim on the same spectrograms."""
        inputs = {"original": batch.mels}
        if self.codec is not None:
            inputs["rebuilt"] = self.codec(batch.mels, batch.mel_lengths).mels
        units = None if self.audio_encoder is None else self.units
        audio, transcripts = {"recording": _audio_of(batch)}, {}
        batch = batch._replace(audio=self._at_16_khz(audio["recording"]))
        for name, mels in inputs.items():
            audio["vocoder" + _SUFFIXES[name]] = generated = self.vocoder(mels, batch.mel_lengths)
            heard = self._at_16_khz(generated)
            transcripts[name] = _quality(self.quality, name).update(heard, batch, self.audio_encoder, units)
            if self.refiner is not None:
                refined = self._at_16_khz(self.refiner(generated, mels))
                _quality(self.refined_quality, name).update(refined, batch, self.audio_encoder, units)
            if split not in self._griffin_lim_values:
                baseline = _quality(self.griffin_lim_quality, name)
                baseline.update(self.griffin_lim(mels), batch, self.audio_encoder, units)
        return Reconstructed(
            self.log_mel(self._at_16_khz(audio["vocoder"])),
            mels={"griffin_lim" + _SUFFIXES[name]: mels for name, mels in inputs.items()},
            audio=audio,
            texts={"transcript": transcripts["original"]} if transcripts["original"] else {},
            sample_rate=self.sample_rate,
        )

    def _at_16_khz(self, audio: Tensor) -> Tensor:
        """The vocoder's output, or its target, as the spectrograms of metrics and recognisers need it."""
        return resample(audio, self.sample_rate, SAMPLE_RATE)

    def compute_metrics(self, split: str) -> dict[str, Tensor]:
        values = {"loss": self.val_loss.compute()}
        if not self.quality_utterances:
            return values
        if split not in self._griffin_lim_values:
            self._griffin_lim_values[split] = _computed(self.griffin_lim_quality, "_griffin_lim")
        refined = {} if self.refiner is None else _computed(self.refined_quality, "_refined")
        return values | _computed(self.quality, "") | refined | self._griffin_lim_values[split]

    def predict_step(self, batch: SpeechBatch, batch_idx: int) -> list[Tensor]:
        """The sound of each row: (samples,)."""
        lengths = (batch.mel_lengths * self.output_mel.hop_length).tolist()
        return [row[:n].cpu() for row, n in zip(self.vocoder(batch.mels, batch.mel_lengths), lengths, strict=True)]


def _quality(qualities: nn.ModuleDict, name: str) -> SoundQuality:
    return qualities[name]  # pyright: ignore[reportReturnType]


def _computed(qualities: nn.ModuleDict, ending: str) -> dict[str, Tensor]:
    """The metrics of all inputs, by their names in the log."""
    return {
        metric + _SUFFIXES[name] + ending: value
        for name in qualities
        for metric, value in _quality(qualities, name).compute().items()
    }


def _mean_score(scores: Sequence[Tensor]) -> Tensor:
    return torch.stack([score.mean() for score in scores]).mean().detach()


def _audio_of(batch: SpeechBatch) -> Tensor:
    """The waveforms of a batch, which must have some."""
    if batch.audio is None:
        raise UserError("the data has no waveforms: set data.init_args.audio to all")
    return batch.audio


@contextmanager
def frozen_parameters(part: nn.Module) -> Iterator[None]:
    """Treats the trained weights of a part as constants."""
    trained = [weight for weight in part.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)
