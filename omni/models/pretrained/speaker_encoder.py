"""A pretrained speaker-verification encoder, which measures how alike two voices are."""

import os
from typing import Any, final

import torch
from torch import Tensor

from omni.errors import UserError
from omni.media.audio import SAMPLE_RATE
from omni.models.pretrained.loading import NO_FOREIGN_CODE, PretrainedPart, load_other, source_errors

USUAL = "microsoft/wavlm-base-plus-sv"


@final
class PretrainedSpeakerEncoder(PretrainedPart):
    """A model of `transformers` with an x-vector head: any `AutoModelForAudioXVector`, such as WavLM's.

    It is frozen, and encodes one recording at a time, so that none is padded.

    Attributes:
        dim: Width of an embedding.

    Args:
        kwargs: See `PretrainedPart`; a folder also holds the feature extractor.

    Raises:
        UserError: If it cannot be loaded, or is not an x-vector model for 16 kHz.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._check_kind()
        self.extractor = load_other("AutoFeatureExtractor", self.source, self.revision)
        rate = getattr(self.extractor, "sampling_rate", SAMPLE_RATE)
        if rate != SAMPLE_RATE:
            raise UserError(f"{self.source}: its sampling rate is {rate:,} Hz and omni's {SAMPLE_RATE:,} Hz")
        self.model = self.load("AutoModelForAudioXVector").eval().requires_grad_(False)
        with source_errors(self.source):  # a damaged configuration is found here, not after hours of training
            noise = torch.randn(SAMPLE_RATE, generator=torch.Generator().manual_seed(0))
            embedding = self(0.1 * noise)
            if embedding.ndim != 1 or not embedding.isfinite().all():
                raise UserError(f"{self.source}: its embeddings are not finite: are its weights complete?")
        self.dim = len(embedding)

    @property
    def version(self) -> str:
        """Its source, with the commit of a model of the Hub."""
        commit = getattr(self.model.config, "_commit_hash", None)
        return self.source if commit is None or os.path.isdir(self.source) else f"{self.source}@{commit}"

    @torch.no_grad()
    def forward(self, audio: Tensor) -> Tensor:
        """Encodes a recording.

        Args:
            audio: (samples,), 16 kHz, 0.5 s or longer: the head's layers span 0.3 s.

        Returns:
            (dim,), float32, of any length.
        """
        inputs = self.extractor(audio.cpu().numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt")
        inputs.pop("attention_mask", None)  # nothing is padded
        return self.model(**inputs.to(next(self.model.parameters()).device)).embeddings[0].float()

    def _check_kind(self) -> None:
        with source_errors(self.source):
            import transformers

            # Its own table of missing weights is many lines; `load` names one of them.
            transformers.logging.set_verbosity_error()
            config = transformers.AutoConfig.from_pretrained(self.source, revision=self.revision, **NO_FOREIGN_CODE)
            if type(config) not in transformers.MODEL_FOR_AUDIO_XVECTOR_MAPPING:
                raise UserError(
                    f"{self.source}: a {config.model_type} is not a speaker encoder: give a model with an x-vector "
                    f"head, such as {USUAL}, or its folder"
                )
