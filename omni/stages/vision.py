"""Stage C: trains the vision encoder by classification, by contrast with captions, or by both."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from lightning import Callback
from torch import Tensor

from omni.batch import Attribute, ImageBatch
from omni.distributed import gather_rows, is_distributed
from omni.errors import UserError
from omni.losses import Loss, classification_loss, contrastive_loss
from omni.media.images import shifted_views
from omni.metrics import Classification, Retrieval
from omni.models.classifier import Classifier, probabilities
from omni.models.contrast import ContrastHead
from omni.models.text_encoder import TextEncoder, masked_mean
from omni.models.thinker import Thinker
from omni.models.vision_encoder import VisionEncoder
from omni.stages.reporting.images import ImageReporter
from omni.stages.stage import Stage
from omni.text.tokenizer import PAD


@final
class VisionPretraining(Stage):
    """Classification of images, contrast of images with captions, or both at once.

    Logs `train/loss` and `val/loss` (nats per image); with a classifier `val/accuracy` and `val/top5`, also by
    attribute; with a contrast head `val/recall@1` and `val/recall@5`, also from images and from captions alone. At
    each validation TensorBoard shows images with label and prediction, the attention of the CLS token, a table of
    classes and a confusion matrix.

    Args:
        vision_encoder: The model.
        classifier: Classification head.
        contrast: Head that compares images with captions.
        text_encoder: Encoder of captions; a contrast head needs either this or a Thinker.
        thinker: Encodes captions as the mean of its hidden states; freeze it, and give `init_from.thinker`.
        label_smoothing: Share of each label that is spread over all classes.
        classification_weight: Weight of the classification loss.
        contrast_weight: Weight of the contrast loss.
        test_shift: In `omni test`, pixels by which images are moved in four directions: logits are averaged over an
            image, its moved copies and the mirror images of these five (as in AlexNet, Krizhevsky et al. 2012); 0: the
            image alone. Validation, `test/loss` and prediction use the image alone.
        shown: Images shown at each validation.
        kwargs: See `Stage`.
    """

    no_effect = frozenset({"test_shift", "shown"})

    def __init__(
        self,
        vision_encoder: VisionEncoder,
        classifier: Classifier | None = None,
        contrast: ContrastHead | None = None,
        text_encoder: TextEncoder | None = None,
        thinker: Thinker | None = None,
        *,
        label_smoothing: float = 0.0,
        classification_weight: float = 1.0,
        contrast_weight: float = 1.0,
        test_shift: int = 0,
        shown: int = 12,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.vision_encoder, self.classifier, self.contrast = vision_encoder, classifier, contrast
        self.text_encoder, self.thinker = text_encoder, thinker
        self.label_smoothing = label_smoothing
        self.classification_weight, self.contrast_weight = classification_weight, contrast_weight
        self.test_shift, self.shown = test_shift, shown
        self.retrieval = Retrieval()
        self.classification: Classification | None = None  # made in `setup`, when the classes are known
        self._check_parts()
        self.monitor = ("val/recall@5" if classifier is None else "val/accuracy", "max")

    def _check_parts(self) -> None:
        tower = self.text_encoder or self.thinker
        if self.classifier is None and self.contrast is None:
            raise UserError("there is no head to train: give model.init_args.classifier or model.init_args.contrast")
        if self.test_shift < 0:
            raise UserError(f"model.init_args.test_shift is {self.test_shift}: it must be 0 or more")
        if self.text_encoder is not None and self.thinker is not None:
            raise UserError("model.init_args.text_encoder and thinker both encode captions: give one of them")
        if (self.contrast is None) != (tower is None):
            raise UserError("contrast needs an encoder of captions, and such an encoder needs contrast: give both")
        dims = [("classifier.init_args.dim", self.classifier.dim, self.vision_encoder.dim)] if self.classifier else []
        if self.contrast is not None and tower is not None:
            dims.append(("contrast.init_args.image_dim", self.contrast.image_dim, self.vision_encoder.dim))
            dims.append(("contrast.init_args.text_dim", self.contrast.text_dim, tower.dim))
        for name, given, needed in dims:
            if given != needed:
                raise UserError(f"model.init_args.{name} is {given}: it must be {needed}")

    @property
    def flops_per_work(self) -> float:
        """See `VisionEncoder.flops_per_image`; without the text encoder."""
        return self.vision_encoder.flops_per_image

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The attributes that the data has labels of."""
        return self.data.attributes

    def setup(self, stage: str) -> None:
        """Checks that model and data fit together."""
        super().setup(stage)
        data = self.data
        if data.image_size != self.vision_encoder.image_size:
            raise UserError(
                f"data.init_args.image_size is {data.image_size} and the encoder's {self.vision_encoder.image_size}: "
                "make them equal"
            )
        if self.classifier is not None:
            classes = sum(len(attribute.values) for attribute in self.attributes)
            if not classes:
                raise UserError("the data has no labels: remove model.init_args.classifier, or give labels")
            if classes != self.classifier.num_classes:
                raise UserError(
                    f"the data has {classes} classes and the classifier {self.classifier.num_classes}: "
                    f"set model.init_args.classifier.init_args.num_classes to {classes}"
                )
            self.classification = Classification(self.attributes).to(self.device)
        for name in {"text_encoder", "thinker"} & self.parts.keys():
            self.check_vocabulary(name)
        if self.contrast is not None and data.augmentation.mixes:
            raise UserError("mixup and cutmix make images that no caption describes: set both to 0, or remove contrast")

    # ------------------------------------------------------------------ loss

    def read(self, tokens: Tensor) -> Tensor:
        """The vectors of texts (batch, time), padded with `PAD`: (batch, text_dim)."""
        mask = tokens != PAD
        if self.text_encoder is not None:
            return self.text_encoder(tokens, mask)
        assert self.thinker is not None
        with torch.set_grad_enabled(torch.is_grad_enabled() and "thinker" not in self.frozen):
            return masked_mean(self.thinker.encode(tokens).hidden, mask)

    def loss(self, batch: ImageBatch) -> Loss:
        """The weighted sum of both losses, over images."""
        return self._loss(batch, self.vision_encoder(batch.images).pooled, self.label_smoothing)

    def _loss(self, batch: ImageBatch, pooled: Tensor, smoothing: float) -> Loss:
        count = torch.full((), len(batch.images), device=pooled.device)
        total, terms = pooled.new_zeros((), dtype=torch.float32), {}
        if self.classifier is not None:
            logits = self.classifier(pooled)
            losses = classification_loss(logits, batch.labels, self._columns(logits), smoothing=smoothing)
            terms["classification"] = losses.sum() / count
            total = total + self.classification_weight * losses.sum()
        if self.contrast is not None:
            if batch.captions is None or batch.caption_ids is None:
                raise UserError("the data has no captions: remove model.init_args.contrast, or give captions")
            images = self.contrast.embed_images(pooled)
            texts = self.contrast.embed_texts(self.read(batch.captions[:, 0]))
            images, texts, ids, ranks = self._of_all_ranks(images, texts, batch.caption_ids[:, 0])
            scores = self.contrast.scores(images, texts)
            contrast = contrastive_loss(scores, ids, kind=self.contrast.loss) / ranks
            terms["contrast"] = contrast / count
            total = total + self.contrast_weight * contrast
        return Loss(total, count, terms if len(terms) > 1 else {})

    def _of_all_ranks(self, images: Tensor, texts: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
        """Gathers embeddings and caption ids of all ranks, with gradients, so that each rank has all negatives.

        Every rank computes the same loss over all pairs and takes its share of it. A batch with fewer rows than the
        others is padded with missing captions, which have no weight.

        Returns:
            Images, texts, ids, and the number of ranks.
        """
        if not is_distributed():
            return images, texts, ids, 1
        missing = (self.data.batch_size if self.training else self.data.val_batch_size) - len(ids)
        both = F.pad(torch.cat((images, texts), dim=1).float(), (0, 0, 0, missing))
        images, texts = gather_rows(both).chunk(2, dim=1)
        return images, texts, gather_rows(F.pad(ids, (0, missing), value=-1)), self.trainer.world_size

    def _columns(self, logits: Tensor) -> tuple[Attribute, ...]:
        if self._trainer is not None:
            return self.attributes
        return (Attribute("label", tuple(map(str, range(logits.shape[1])))),)  # in `omni plan`

    def example_batch(self, data: Mapping[str, Any]) -> ImageBatch:
        """`batch_size` images of `image_size`, with a caption each for a contrast head."""
        count, size = data["batch_size"], data["image_size"]
        labels = torch.zeros(count, self.classifier.num_classes if self.classifier else 0)
        rows = torch.zeros(count, dtype=torch.long)
        images = torch.zeros(count, 3, size, size)
        if self.contrast is None:
            return ImageBatch(images, labels, rows)
        captions = torch.zeros(count, 1, data["caption_tokens"], dtype=torch.long)
        return ImageBatch(images, labels, rows, captions, torch.zeros(count, 1, dtype=torch.long))

    # ------------------------------------------------------------------ evaluation

    def configure_callbacks(self) -> list[Callback]:
        return [ImageReporter(self.shown)]

    def evaluate(self, batch: ImageBatch, split: str) -> None:
        pooled = self.vision_encoder(batch.images).pooled
        loss = self._loss(batch, pooled, 0.0)
        self.val_loss.update(loss.total, loss.num_items)
        if self.classifier is not None and self.classification is not None:
            logits = self.classifier(pooled)
            if split == "test" and self.test_shift:
                logits = self._mean_logits(shifted_views(batch.images, self.test_shift))
            self.classification.update(logits, batch.labels)
        if self.contrast is not None and batch.captions is not None and batch.caption_ids is not None:
            present = batch.caption_ids >= 0
            texts = self.contrast.embed_texts(self.read(batch.captions[present]))
            text_rows = batch.rows[:, None].expand_as(present)[present]
            images = self.contrast.embed_images(pooled)
            self.retrieval.update(images, batch.rows, texts, text_rows, batch.caption_ids[present])

    def _mean_logits(self, views: Sequence[Tensor]) -> Tensor:
        """The mean over views of images (batch, 3, height, width): (batch, classes)."""
        assert self.classifier is not None
        return torch.stack([self.classifier(self.vision_encoder(view).pooled) for view in views]).mean(0)

    def compute_metrics(self, split: str) -> dict[str, Tensor]:
        metrics = {"loss": self.val_loss.compute()}
        if self.classification is not None:
            metrics |= self.classification.compute()
        if self.contrast is not None:
            metrics |= self.retrieval.compute()
        return metrics

    def predict_step(self, batch: ImageBatch, batch_idx: int) -> dict[str, Tensor]:
        """By attribute, the probabilities of its values (batch, values); with contrast, `embedding` (batch, dim)."""
        pooled = self.vision_encoder(batch.images).pooled
        outputs = {}
        if self.classifier is not None:
            outputs = probabilities(self.classifier(pooled), self.attributes)
        return outputs if self.contrast is None else outputs | {"embedding": self.contrast.embed_images(pooled)}

    # ------------------------------------------------------------------ checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what inference needs: the preprocessing of images, and the classes."""
        super().on_save_checkpoint(checkpoint)
        preprocessing = self.data.preprocessing
        checkpoint["images"] = {
            "size": preprocessing.size,
            "fit": preprocessing.fit,
            "attributes": [(a.name, list(a.values), a.several) for a in self.attributes],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As in `Stage`; refuses a classifier with other classes than the data's."""
        super().on_load_checkpoint(checkpoint)
        saved = [Attribute(name, tuple(v), several) for name, v, several in checkpoint["images"]["attributes"]]
        if self.classifier is not None and (
            differing := sorted({*_class_names(saved)} ^ {*_class_names(self.attributes)})
        ):
            raise UserError(
                f"the data does not have the classes that this checkpoint was trained with: {differing[0]} is only in "
                "one of them; to train on other classes, start from its encoder: --init_from.vision_encoder"
            )


def _class_names(attributes: Sequence[Attribute]) -> list[str]:
    """Each class with its column."""
    names = [f"{attribute.name} {value!r}" for attribute in attributes for value in attribute.values]
    return [f"{name} (number {number})" for number, name in enumerate(names)]
