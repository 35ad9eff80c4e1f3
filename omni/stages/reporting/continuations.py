"""Texts that a Thinker continues."""

from collections.abc import Sequence
from typing import Any, final

import torch

from omni.decoding.sampling import Sampling
from omni.inference.text import TextModel
from omni.stages.reporting.media import MediaWriter
from omni.stages.reporting.reporter import Reporter


@final
class ContinuationReporter(Reporter):
    """Writes continuations of prompts, sampled, as `val/samples`.

    Args:
        prompts: The texts; an empty one starts a document.
        max_tokens: Tokens added to each.
    """

    def __init__(self, prompts: Sequence[str], max_tokens: int) -> None:
        super().__init__(shown=0)
        self.prompts, self.max_tokens = prompts, max_tokens

    def example(self, stage: Any, outputs: Any, batch: Any) -> None:
        """None: prompts come from the configuration."""

    def write(self, writer: MediaWriter, stage: Any, split: str) -> None:
        """Markdown: each prompt in bold, then its continuation."""
        if not self.prompts:
            return
        model, sampling = TextModel(stage.thinker, stage.tokenizer), Sampling(temperature=0.8, top_p=0.95)
        with torch.compiler.set_stance("force_eager"):  # each new length would be compiled
            texts = model.generate(self.prompts, max_tokens=self.max_tokens, sampling=sampling)
        lines = [f"**{prompt or '(start)'}** {text}" for prompt, text in zip(self.prompts, texts, strict=True)]
        writer.add_text(f"{split}/samples", "\n\n".join(lines), stage.global_step)
