"""Stage E: trains the Thinker to answer questions about text, images and speech."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from lightning import Callback
from torch import Tensor
from torch.optim import Optimizer

from omni.batch import EXCLUDED_FROM_ACCURACY, IGNORE, ConversationBatch
from omni.decoding.sampling import Sampling, generate
from omni.distributed import is_distributed, mean_over_ranks, sum_over_ranks
from omni.errors import UserError
from omni.layers.moe import RouterUse, router_losses
from omni.losses import Loss
from omni.media.audio import HOP_LENGTH
from omni.media.speech_preprocessing import silence_value
from omni.models.audio_encoder import AudioEncoder
from omni.models.interfaces import ImageEncoder, SpeechEncoder
from omni.models.omni import MediaEmbeddings, Omni
from omni.models.pretrained.thinker import PretrainedThinker
from omni.models.projector import Projector
from omni.models.thinker import Thinker
from omni.models.vision_encoder import VisionEncoder
from omni.optim.optimizers import split_by_part
from omni.stages.answer_metrics import MEDIA, AnswerMetrics, blank, rows_with
from omni.stages.encoder_cache import FeatureCache
from omni.stages.prompt_loss import with_prompts
from omni.stages.reporting.conversations import Answers, ConversationReporter
from omni.stages.stage import Stage
from omni.text.tokenizer import PAD

_PROJECTORS = ("vision_projector", "audio_projector")
_ROUTER_Z = 1e-3  # weight of the z-loss of a projector's router, as in ST-MoE (arXiv:2202.08906)


@final
class OmniTuning(Stage):
    """Next-token prediction of the assistant's turns in conversations about text, images and speech.

    Logs `train/loss` and `val/loss` (nats per token of the assistant) and `val/perplexity`. Validation generates the
    answer to the last question of each conversation, greedily, and logs `val/accuracy/TASK`, the share that equals the
    reference once both are normalised; `val/accuracy` over all questions but those of `excluded_tasks`; and `val/wer`
    of transcriptions, both sides written as the data's `labels` are. The modality ablation logs the same with every
    image grey (`val/accuracy_blank_image`) or all audio silent (`val/accuracy_blank_audio`), over the questions that
    have any; `val/accuracy_image` and `val/accuracy_audio` are over the same questions with their media. A model whose
    accuracies do not differ ignores the medium. TensorBoard shows conversations with their media.

    Args:
        thinker: The language model.
        vision_encoder: Encodes images.
        vision_projector: From the vision encoder to the Thinker.
        audio_encoder: Encodes audio. Its CTC head is not trained.
        audio_projector: From the audio encoder to the Thinker.
        rates: Learning rates by part; `lr` for all others.
        projector_steps: Optimizer steps in which only projectors are trained; the warm-up of all other parts follows.
        frame_dropout: Probability with which a frame of the audio encoder is dropped in training.
        prompt_weight: Weight of the text of prompts in the training loss; the assistant's is 1 (arXiv:2405.14394). What
            long questions mention teaches the model to read their media.
        balance: Weight of the experts' balance loss, for projectors and trained Thinkers with experts.
        feature_cache: Folder of the cached frames of a frozen audio encoder, which then encodes each recording once.
        modality_ablation: Whether validation also asks with blank images and blank audio.
        excluded_tasks: Tasks that `val/accuracy` leaves out, unless the data has no others.
        answer_tokens: Most tokens of an answer.
        shown: Conversations shown at each validation.
        kwargs: See `Stage`.
    """

    monitor = ("val/accuracy", "max")
    no_effect = frozenset({"feature_cache", "modality_ablation", "shown"})
    has_unused_parameters = True  # those of a medium that no row of a batch has
    sharded_parts = ("thinker",)

    def __init__(
        self,
        thinker: Thinker | PretrainedThinker,
        vision_encoder: VisionEncoder | ImageEncoder | None = None,
        vision_projector: Projector | None = None,
        audio_encoder: AudioEncoder | SpeechEncoder | None = None,
        audio_projector: Projector | None = None,
        *,
        rates: dict[str, float] | None = None,
        projector_steps: int = 0,
        frame_dropout: float = 0.0,
        prompt_weight: float = 0.0,
        balance: float = 0.01,
        feature_cache: str | None = None,
        modality_ablation: bool = True,
        excluded_tasks: Sequence[str] = EXCLUDED_FROM_ACCURACY,
        answer_tokens: int = 32,
        shown: int = 6,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.thinker = thinker
        self.vision_encoder, self.vision_projector = vision_encoder, vision_projector
        self.audio_encoder, self.audio_projector = audio_encoder, audio_projector
        self.layout = self.omni.layout  # of media among the tokens
        self.frame_dropout, self.balance = frame_dropout, balance
        self.cache = None if feature_cache is None else FeatureCache(feature_cache)
        self.prompt_weight = prompt_weight
        self.rates, self.projector_steps = dict(rates or {}), projector_steps
        self.modality_ablation, self.excluded_tasks = modality_ablation, tuple(excluded_tasks)
        self.answer_tokens, self.shown = answer_tokens, shown
        self.answer_metrics: AnswerMetrics | None = None  # made in `setup`, when the tasks are known
        self._check_arguments()

    def _check_arguments(self) -> None:
        for name in (*self.rates, *self.frozen):
            self.part(name)
        if wrong := next((name for name, rate in self.rates.items() if rate <= 0), None):
            raise UserError(f"model.init_args.rates.{wrong} is {self.rates[wrong]}: it must be over 0; or freeze it")
        if not 0 <= self.frame_dropout < 1:
            raise UserError(f"model.init_args.frame_dropout must be 0 or more and under 1, not {self.frame_dropout}")
        if not 0 <= self.prompt_weight <= 1:
            raise UserError(f"model.init_args.prompt_weight must be from 0 to 1, not {self.prompt_weight}")
        if self.projector_steps < 0:
            raise UserError(f"model.init_args.projector_steps must be 0 or more, not {self.projector_steps}")
        if self.projector_steps and not self._projectors:
            raise UserError("model.init_args.projector_steps trains projectors first, and there are none to train")

    @property
    def flops_per_work(self) -> float:
        """See `Thinker.flops_per_token`; without the encoders."""
        return self.thinker.flops_per_token

    @property
    def _projectors(self) -> list[str]:
        return [name for name in _PROJECTORS if name in self.parts and name not in self.frozen]

    @property
    def omni(self) -> Omni:
        """The parts as one model; no child, which would add a second key for each weight to the state dict."""
        return Omni(
            self.thinker,
            vision_encoder=self.vision_encoder,
            vision_projector=self.vision_projector,
            audio_encoder=self.audio_encoder,
            audio_projector=self.audio_projector,
        )

    # ------------------------------------------------------------------ parts

    def reads_tokens(self, name: str) -> bool:
        """Only the Thinker does: the units of the audio encoder are those of its CTC head."""
        return name == "thinker"

    def configure_data(self, data: Any) -> None:
        """Gives the data the number of tokens per image and per mel frame."""
        data.set_layout(self.layout)

    def setup(self, stage: str) -> None:
        """Checks that model and data fit together, and calibrates new projectors."""
        super().setup(stage)
        data = self.data
        source = getattr(self.thinker, "source", None)
        if getattr(self.tokenizer, "source", None) != source:
            wanted = "a tokenizer of omni's" if source is None else f"pretrained:{source}"
            raise UserError(f"the Thinker's tokenizer is not the data's: set data.init_args.tokenizer to {wanted}")
        self.check_vocabulary("thinker")
        fits = []
        if self.vision_encoder is not None:
            fits.append(("image_size", data.preprocessing.size, self.vision_encoder.image_size))
        if self.audio_encoder is not None:
            fits.append(("num_mels", data.num_mels, self.audio_encoder.num_mels))
        if isinstance(self.audio_encoder, AudioEncoder):
            for head in (self.audio_encoder.head_input, self.audio_encoder.head_conv, self.audio_encoder.head):
                head.requires_grad_(False)  # later blocks may read its output, so it must not change
        for name, given, needed in fits:
            if given != needed:
                raise UserError(f"data.init_args.{name} is {given} and the encoder's {needed}: make them equal")
        self._check_trained()
        self.configure_data(data)
        if stage == "fit":  # the weights of a resumed checkpoint are loaded later
            for name in _PROJECTORS:
                if name in self.parts and name not in self.ancestors:
                    getattr(self, name).calibrate(self.thinker.embedding_rms)
        self.answer_metrics = AnswerMetrics(
            data.tasks, excluded=self.excluded_tasks, normalize_transcript=data.transcription_prompt.labels
        ).to(self.device)

    def _check_trained(self) -> None:
        """Refuses to train 16-bit weights, and to cache the features of a trained encoder."""
        master = str(self.trainer.precision).endswith(("mixed", "32-true"))
        for name, part in self.parts.items():
            narrow = {p.dtype for p in part.parameters() if p.requires_grad and p.dtype != torch.float32}
            if master and narrow:
                dtype = str(narrow.pop()).removeprefix("torch.")
                raise UserError(
                    f"model.init_args.{name} is trained in {dtype}, in which small steps are lost: set its dtype to "
                    "float32, freeze it, or train LoRA on it"
                )
        if self.cache is not None and "audio_encoder" not in self.frozen:
            raise UserError("model.init_args.feature_cache needs a frozen encoder: add audio_encoder to frozen")

    # ------------------------------------------------------------------ loss

    def embed(self, batch: ConversationBatch) -> MediaEmbeddings:
        """The Thinker's input; see `Omni.embed`."""
        media: dict[str, Any] = {"images": batch.images, "mels": batch.mels, "mel_lengths": batch.mel_lengths}
        if self.cache is not None and batch.audio_keys:
            media["features"] = self.cache.features(batch, self.omni)
        dropout = self.frame_dropout if self.training else 0.0
        return self.omni.embed(batch.tokens, frame_dropout=dropout, **media)

    def loss(self, batch: ConversationBatch) -> Loss:
        """Cross-entropy of the assistant's tokens; in training with the router losses of projectors and Thinker."""
        weights = None
        if self.training and self.prompt_weight:
            batch, weights = with_prompts(batch, self.prompt_weight)
        mixture = isinstance(self.thinker, Thinker) and self.thinker.mixture
        mask = batch.tokens != PAD if mixture and self.training else None  # the balance loss ignores padding
        inputs, router_uses = self.embed(batch)
        encoded = self.omni.encode(inputs, positions=batch.positions, mask=mask, scored=batch.scored)
        targets = batch.targets
        if batch.scored is not None:
            targets = targets.flatten().index_select(0, batch.scored)
        total = self.thinker.cross_entropy(encoded.hidden, targets, weights)
        count = (targets != IGNORE).sum() if weights is None else weights.sum()
        stats = {"padding": torch.full((), 1 - batch.num_tokens / batch.tokens.numel())}
        if not self.training:
            return Loss(total, count, stats=stats)
        terms = self._router_terms(router_uses)
        if mixture and "thinker" not in self.frozen:
            terms["thinker_balance"] = encoded.balance_loss
        if not terms:
            return Loss(total, count, stats=stats)
        weights = {"thinker_balance": self.balance, "balance": self.balance, "router_z": _ROUTER_Z}
        penalty = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return Loss(total + penalty * mean_over_ranks(count), count, terms, stats)

    def _router_terms(self, uses: Mapping[str, RouterUse]) -> dict[str, Tensor]:
        """Losses of the routers of trained projectors, over the media of all ranks: a rank may have none of a medium.

        Args:
            uses: How this rank's experts were used, by the projectors' names.
        """
        trained = {name: self.parts[name] for name in self._projectors}
        mixtures = {n: part.experts for n, part in trained.items() if isinstance(part, Projector) and part.experts}
        if not mixtures or not (uses.keys() & mixtures.keys() or is_distributed()):
            return {}
        found = [uses.get(name) or experts.no_use() for name, experts in mixtures.items()]
        sizes = [len(use.routed) for use in found]
        every = sum_over_ranks(torch.cat([use.routed for use in found])).split(sizes)
        losses = [
            router_losses(use, routed, experts_per_token=experts.experts_per_token)
            for experts, use, routed in zip(mixtures.values(), found, every, strict=True)
        ]
        balance, z = (torch.stack(terms).sum() for terms in zip(*losses, strict=True))
        return {"balance": balance, "router_z": z}

    def example_batch(self, data: Mapping[str, Any]) -> ConversationBatch:
        """As many of the longest rows as `batch_tokens` holds, each with an image and half of its tokens audio."""
        time = data["max_tokens"]
        rows = max(1, min(data["max_batch_rows"], data["batch_tokens"] // time))
        tokens = torch.zeros(rows, time, dtype=torch.long)
        batch = ConversationBatch(tokens, tokens.clone(), torch.zeros(3, rows, time), tokens[:, 0].clone(), rows * time)
        if self.vision_encoder is not None:
            size = self.vision_encoder.image_size
            batch = batch._replace(images=torch.zeros(rows, 3, size, size))
        if self.audio_encoder is not None:
            frames = time // 2 * (self.layout.mel_frames or 1)
            mels = torch.zeros(rows, frames, self.audio_encoder.num_mels or HOP_LENGTH)
            batch = batch._replace(mels=mels, mel_lengths=torch.full((rows,), frames))
        return batch

    # ------------------------------------------------------------------ optimisation

    def make_optimizer(self) -> Optimizer:
        """As in `Stage`, with learning rates by part."""
        optimizer = super().make_optimizer()
        split_by_part(optimizer, self.parts, self.rates)
        return optimizer

    def lr_curve(self, group: Mapping[str, Any], total_steps: float) -> Callable[[int], float]:
        """As in `Stage`; all but projectors start after `projector_steps`."""
        wait = 0 if group["part"] in _PROJECTORS else self.projector_steps
        curve = super().lr_curve(group, total_steps - wait)
        return lambda step: curve(step - wait) if step >= wait else 0.0

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Drops the gradients of all but projectors for `projector_steps`, so that the optimizer keeps no state."""
        super().on_before_optimizer_step(optimizer)
        if self.global_step < self.projector_steps:
            for name, part in self.parts.items():
                if name not in _PROJECTORS:
                    part.zero_grad(set_to_none=True)

    # ------------------------------------------------------------------ evaluation

    @torch.no_grad()
    def answer(self, batch: ConversationBatch, rows: Sequence[int] | None = None) -> list[str]:
        """Greedy answers to the last question of all rows, or of some."""
        rows = range(len(batch.prompts)) if rows is None else rows
        chosen = torch.tensor(rows, device=batch.tokens.device)
        prompts = [batch.tokens[row, : batch.prompts[row]].tolist() for row in rows]
        outputs: list[list[int]] = [[] for _ in rows]
        steps = generate(
            self.thinker,
            prompts,
            embeddings=self.embed(batch).embeddings[chosen],
            positions=self.omni.rotary_positions(batch.positions[:, chosen]),
            max_tokens=self.answer_tokens,
            stop=self.data.stop,
            vocab_size=self.tokenizer.vocab_size,
            sampling=Sampling(temperature=0),
        )
        for step in steps:
            for tokens, token in zip(outputs, step, strict=True):
                if token not in (None, self.data.stop):
                    tokens.append(token)
        return [self.tokenizer.decode_turn(tokens) for tokens in outputs]

    def configure_callbacks(self) -> list[Callback]:
        return [ConversationReporter(self.shown)]

    def evaluate(self, batch: ConversationBatch, split: str) -> Answers:
        assert self.answer_metrics is not None
        super().evaluate(batch, split)
        with torch.compiler.set_stance("force_eager"):  # each new length would be compiled
            answers = self.answer(batch)
            correct = self.answer_metrics.update(batch, answers)
            for medium in MEDIA if self.modality_ablation else ():
                rows = rows_with(batch, medium)
                blanked = blank(batch, medium, silence_value(self.data.num_mels))
                self.answer_metrics.update_blank(medium, batch, self.answer(blanked, rows) if rows else [])
        return Answers(answers, correct)

    def compute_metrics(self, split: str) -> dict[str, Tensor]:
        assert self.answer_metrics is not None
        loss = self.val_loss.compute()
        answers = self.answer_metrics.compute(with_blank=self.modality_ablation)
        return {"loss": loss, "perplexity": loss.exp(), **answers}

    def predict_step(self, batch: ConversationBatch, batch_idx: int) -> list[str]:
        """The answer to each row."""
        return self.answer(batch)

    # ------------------------------------------------------------------ checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what inference needs: context length, chat template, dictation and preprocessing of images."""
        super().on_save_checkpoint(checkpoint)
        data = self.data
        checkpoint["context"], checkpoint["template"] = data.max_tokens, data.template
        checkpoint["answer_tokens"], checkpoint["dictation"] = self.answer_tokens, data.transcription_prompt.state()
        if self.vision_encoder is not None:
            preprocessing = data.preprocessing
            checkpoint["images"] = {"size": preprocessing.size, "fit": preprocessing.fit}
