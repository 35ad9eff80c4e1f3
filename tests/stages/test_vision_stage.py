"""Stage C: learning from classes and captions, metrics, resuming, and errors."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_commands import CAPTIONS, NO_CLASSES, part

import omni
from omni.batch import Attribute, ImageBatch
from omni.checkpoints.checkpoint import Checkpoint
from omni.curves.event_files import read_run
from omni.data.images.augmentation import ImageAugmentation
from omni.data.images.data import ImageData
from omni.errors import UserError
from omni.losses import classification_loss
from omni.media.images import Preprocessing, read_image, to_pixels
from omni.models.classifier import Classifier
from omni.models.contrast import ContrastHead
from omni.models.text_encoder import TextEncoder
from omni.models.thinker import Thinker
from omni.models.vision_encoder import VisionEncoder
from omni.stages.reporting.images import described
from omni.stages.vision import VisionPretraining
from omni.text.tokenizer import ByteTokenizer

RUN = Path("lightning_logs/vision")
LAST = str(RUN / "last.ckpt")
COLOURS = Attribute("label", ("blue", "green", "red"))


BY_ACCURACY = {
    "class_path": "omni.training.callbacks.StageCheckpoint",
    "init_args": {"filename": "best", "monitor": "val/accuracy", "mode": "max"},
}


def events() -> EventAccumulator:
    found = EventAccumulator(str(RUN), size_guidance={"scalars": 0})
    found.Reload()
    return found


def scalars(tag: str) -> list[float]:
    return [event.value for event in events().Scalars(tag)]


def weights(path: str = LAST) -> dict[str, torch.Tensor]:
    return Checkpoint(path).weights


# ---------------------------------------------------------------------- by the command


def test_both_heads_learn_at_once_and_metrics_are_logged(fit_vision):
    fit_vision(
        **CAPTIONS,
        model__init_args__contrast_weight=0.25,
        model__init_args__classification_weight=2,
        model__init_args__shown=5,
    )
    assert sorted(path.name for path in RUN.glob("*.ckpt")) == ["best.ckpt", "last.ckpt"]
    classes, contrast = scalars("train/loss/classification"), scalars("train/loss/contrast")
    assert scalars("train/loss") == pytest.approx([2 * a + b / 4 for a, b in zip(classes, contrast, strict=True)])
    assert min(scalars("train/images_per_second")) > 0
    assert 0 < scalars("train/mfu")[-1] < 1
    for name in ("loss", "accuracy", "recall@1", "recall@5", "image_recall@1", "text_recall@1"):
        assert len(scalars(f"val/{name}")) == 2
    checkpoint = Checkpoint(RUN / "best.ckpt").content
    assert "val/accuracy" in str(checkpoint["callbacks"])
    assert checkpoint["images"] == {"size": 16, "fit": "crop", "attributes": [("label", list(COLOURS.values), False)]}
    assert checkpoint["parts"].keys() == {"vision_encoder", "classifier", "contrast", "text_encoder"}

    found = events()
    for tag in ("val/images", "val/attention"):
        assert [event.step for event in found.Images(tag)] == [3, 6]
        assert found.Images(tag)[-1].width > found.Images(tag)[-1].height > 100
    assert found.Images("val/confusion/label")
    text = found.Tensors("val/classes/text_summary")[-1].tensor_proto.string_val[0].decode().splitlines()
    assert text[0] == "| attribute | class | images | correct |"
    assert [line.split(" | ")[1:3] for line in text[2:]] == [["blue", "4"], ["green", "4"], ["red", "4"]]


def test_the_verbs_test_and_predict_agree_with_validation(fit_vision, capfd):
    given = {
        **CAPTIONS,
        **NO_CLASSES,
        "data__init_args__test": "pictures/val.jsonl",
        "trainer__max_steps": 4,
        "trainer__val_check_interval": 4,
        "model__init_args__shown": 3,
    }
    fit_vision(**given)
    assert "val/recall@5" in str(Checkpoint(RUN / "best.ckpt").content["callbacks"])  # without a classifier
    assert read_run(str(RUN)).headline == "val/recall@5"
    assert events().Tags()["images"] == ["val/images", "val/attention"]
    names = ("recall@1", "recall@5", "image_recall@1", "text_recall@1")
    logged = {name: scalars(f"val/{name}")[-1] for name in names}
    capfd.readouterr()
    cli = fit_vision("test", "--ckpt_path", LAST, **given, data__init_args__val_batch_size=7)
    assert "test/recall@5" in capfd.readouterr().out
    assert {name: float(cli.trainer.callback_metrics[f"test/{name}"]) for name in names} == pytest.approx(logged)
    predictions = fit_vision("predict", "--ckpt_path", LAST, **given).trainer.predict_loop.predictions
    embedded = torch.cat([batch["embedding"] for batch in predictions])
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(12))


def test_a_few_images_are_overfitted(fit_vision, pictures):
    rows = [json.loads(line) for line in (pictures / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    few = [row | {"captions": row["captions"][:1]} for row in (rows[i] for i in (0, 1, 8, 9, 16, 17))]
    (pictures / "few.jsonl").write_text("\n".join(map(json.dumps, few)), encoding="utf-8")
    shutil.copytree(pictures, "copy")  # the same images in training and validation
    given = {
        **CAPTIONS,
        "data__init_args__train": "pictures/few.jsonl",
        "data__init_args__val": "copy/few.jsonl",
        "data__init_args__batch_size": 6,
        "data__init_args__load_size": 16,
        "data__init_args__augmentation__min_crop_area": 1,
        "data__init_args__augmentation__randaugment": 0,
        "trainer__max_steps": 80,
        "trainer__val_check_interval": 80,
        "model__init_args__lr": 3e-3,
        "model__init_args__label_smoothing": 0,
    }
    fit_vision(**given)
    assert scalars("val/accuracy") == scalars("val/recall@1") == [1.0]
    assert scalars("train/loss/classification")[-1] < 0.1


def write_thinker(path: str, **size: int) -> dict[str, torch.Tensor]:
    """Writes a checkpoint as stage A does, and returns its weights."""
    thinker, tokenizer = Thinker(**size), ByteTokenizer()
    lineage = {"stage": "ThinkerPretraining", "step": 1, "config": "", "data": "", "ancestors": {}}
    state = {f"thinker.{name}": weight for name, weight in thinker.state_dict().items()}
    recipes = {"state_dict": state, "parts": {"thinker": thinker.recipe}, "tokenizer": tokenizer.state()}
    torch.save(recipes | {"lineage": lineage | {"tokenizer": tokenizer.fingerprint}}, path)
    return state


def test_a_run_with_a_frozen_thinker_resumes_within_an_epoch_without_its_ancestor(fit_vision):
    size = {"vocab_size": 288, "dim": 32, "num_layers": 1, "num_heads": 4, "num_kv_heads": 2, "ffn_dim": 48}
    before = write_thinker("thinker.ckpt", **size)
    options = {
        "trainer__val_check_interval": 100,
        **CAPTIONS,
        "model__init_args__text_encoder": None,
        "model__init_args__thinker": part(Thinker, **size),
        "model__init_args__frozen": '["thinker"]',
        "init_from": '{"thinker": "thinker.ckpt"}',
        "model__init_args__schedule": "constant",
        "model__init_args__vision_encoder__init_args__dropout": 0.2,
        "data__init_args__augmentation__flip": 0.5,
    }
    whole = fit_vision(**options, trainer__max_steps=7).model  # 4 batches an epoch
    assert not whole.thinker.training
    assert not any(parameter.requires_grad for parameter in whole.thinker.parameters())
    losses, trained = scalars("train/loss"), weights()
    fit_vision(**options, trainer__max_steps=3)
    Path("thinker.ckpt").unlink()
    fit_vision("fit", "--ckpt_path", "last", **options, trainer__max_steps=7)
    again = weights()
    assert all(torch.equal(again[name], weight) for name, weight in trained.items())
    assert scalars("train/loss")[-4:] == losses[-4:]
    assert all(torch.equal(again[name], weight) for name, weight in before.items())
    assert Checkpoint(LAST).lineage["ancestors"]["thinker"]["stage"] == "ThinkerPretraining"
    (answer,) = omni.classify("pictures/val/red/0.png", LAST, labels=["red", "a blue one"], device="cpu")
    assert sum(answer["label"].values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"model__init_args__classifier__init_args__num_classes": 10}, "the data has 3 classes and the classifier 10"),
        ({**CAPTIONS, **NO_CLASSES, "trainer__callbacks+": f"[{json.dumps(BY_ACCURACY)}]"}, "val/accuracy"),
        ({"model__init_args__test_shift": -1}, "model.init_args.test_shift is -1: it must be 0 or more"),
    ],
)
def test_mistakes_end_in_one_line(fit_vision, fails, overrides, words):
    assert words in fails(fit_vision, **overrides)


# ---------------------------------------------------------------------- the stage alone


class Data(SimpleNamespace):
    """The part of a data module that a stage uses."""

    def __init__(self, **given: Any) -> None:
        defaults = {
            "attributes": (COLOURS,),
            "tokenizer": ByteTokenizer(),
            "image_size": 16,
            "augmentation": ImageAugmentation(),
            "preprocessing": Preprocessing(16, "pad"),
        }
        super().__init__(**defaults | given)


def make(*, data: Data | None = None, **given: Any) -> VisionPretraining:
    """A stage with both heads, attached to data if given; an argument of None removes a part."""
    torch.manual_seed(0)
    parts = {
        "vision_encoder": VisionEncoder(
            image_size=16, patch_size=4, dim=32, num_layers=1, num_heads=2, ffn_dim=48, stem_width=8
        ),
        "classifier": Classifier(dim=32, num_classes=3),
        "contrast": ContrastHead(image_dim=32, text_dim=24, dim=16),
        "text_encoder": TextEncoder(vocab_size=288, dim=24, num_layers=1, num_heads=2, ffn_dim=32),
    }
    stage = VisionPretraining(**parts | given)
    if data is not None:
        stage._trainer = SimpleNamespace(datamodule=data, precision="32-true")  # pyright: ignore
        stage.setup("fit")
    return stage


def batch(**given: Any) -> ImageBatch:
    generator = torch.Generator().manual_seed(1)
    whole = ImageBatch(
        images=torch.rand(4, 3, 16, 16, generator=generator),
        labels=torch.eye(3)[[0, 1, 2, 1]],
        rows=torch.arange(4),
        captions=torch.randint(4, 64, (4, 1, 6), generator=generator),
        caption_ids=torch.tensor([[0], [1], [2], [0]]),
    )
    return whole._replace(**given)


def test_every_parameter_gets_a_gradient():
    stage = make()
    stage.loss(batch()).total.backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in stage.parameters())


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_shuffled_pairs_have_a_higher_loss_after_training(kind):
    contrast = ContrastHead(image_dim=32, text_dim=24, dim=16, loss=kind)
    stage, given = make(classifier=None, contrast=contrast), batch(caption_ids=torch.arange(4)[:, None])
    optimizer = torch.optim.AdamW(stage.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        stage.loss(given).total.backward()
        optimizer.step()
    assert given.captions is not None
    learned = stage.loss(given).mean
    assert stage.loss(given._replace(images=given.images.roll(1, 0))).mean > 10 * learned
    assert stage.loss(given._replace(captions=given.captions.roll(1, 0))).mean > 10 * learned


def test_padding_of_captions_changes_nothing():
    stage, given = make().eval(), batch()
    assert given.captions is not None
    wider = given._replace(captions=torch.nn.functional.pad(given.captions, (0, 5)))
    torch.testing.assert_close(stage.loss(wider).total, stage.loss(given).total)


def test_a_frozen_thinker_gets_no_gradient_and_a_free_one_does():
    options = {"vocab_size": 288, "dim": 24, "num_layers": 1, "num_heads": 2, "ffn_dim": 32}
    for frozen in ([], ["thinker"]):
        stage = make(data=Data(), text_encoder=None, thinker=Thinker(**options), frozen=frozen).train()
        stage.loss(batch()).total.backward()
        assert all((parameter.grad is None) == bool(frozen) for parameter in stage.part("thinker").parameters())
        assert stage.part("thinker").training != bool(frozen)
        assert all(parameter.grad is not None for parameter in stage.part("contrast").parameters())


def test_labels_are_smoothed_in_training_only():
    stage, given = make(data=Data(), contrast=None, text_encoder=None, label_smoothing=0.3, shown=0), batch()
    stage.validation_step(given, 0)
    assert stage.classifier is not None
    logits = stage.classifier(stage.vision_encoder(given.images).pooled)
    plain, smooth = (classification_loss(logits, given.labels, [COLOURS], smoothing=s).mean() for s in (0, 0.3))
    assert stage.val_loss.compute().item() == pytest.approx(plain.item(), rel=1e-5)
    assert stage.loss(given).mean.item() == pytest.approx(smooth.item(), rel=1e-5)


def test_validation_images_and_labels_are_not_augmented(pictures):
    harsh = ImageAugmentation(min_crop_area=0.3, flip=1, randaugment=2, mixup=1, cutmix=1)
    data = ImageData("pictures/train", "pictures/val", image_size=16, load_size=20, augmentation=harsh, batch_size=12)
    data.setup()
    (measured,) = data.val_dataloader()
    files = [pictures / "val" / colour / f"{i}.png" for colour in COLOURS.values for i in range(4)]
    pixels = to_pixels(torch.stack([Preprocessing(16)(read_image(file)) for file in files]))
    torch.testing.assert_close(measured.images, pixels)
    assert torch.equal(measured.labels, torch.eye(3).repeat_interleave(4, 0))
    trained = torch.cat([batch.labels for batch in data.train_dataloader()])
    assert ((trained > 0) & (trained < 1)).any()  # mixed
    torch.testing.assert_close(trained.sum(1), torch.ones(24))


def test_logits_are_averaged_over_ten_views_in_the_test_only():
    stage = make(data=Data(), contrast=None, text_encoder=None, test_shift=2).eval()
    given = batch()
    views = [torch.zeros_like(given.images) for _ in range(10)]
    moves = ((0, 0), (2, 0), (-2, 0), (0, 2), (0, -2))
    for number, (right, down) in enumerate(moves):
        for side, images in enumerate((given.images, given.images.flip(-1))):
            rolled = images.roll((down, right), (-2, -1))  # what comes in at the other side is black below
            rows, columns = torch.arange(16) - down, torch.arange(16) - right
            inside = ((rows >= 0) & (rows < 16))[:, None] & ((columns >= 0) & (columns < 16))
            views[number + 5 * side] = rolled * inside
    logits = torch.stack([stage.classifier(stage.vision_encoder(view).pooled) for view in views])
    seen = []
    stage.classification.update = lambda found, labels: seen.append(found)
    for split in ("val", "test"):
        stage.evaluate(given, split)
    torch.testing.assert_close(seen[0], logits[0])
    torch.testing.assert_close(seen[1], logits.mean(0))
    assert not torch.allclose(*seen)


def test_several_attributes_are_measured_and_described():
    attributes = (Attribute("size", ("small", "large")), Attribute("has", ("spot", "line"), several=True))
    head = Classifier(dim=32, num_classes=4)
    stage = make(data=Data(attributes=attributes), classifier=head, contrast=None, text_encoder=None)
    labels = torch.tensor([[1, 0, 1, 0], [0, 1, 1, 1], [-1, -1, 0, 0], [0, 1, 0, 1]]).float()
    with torch.no_grad():
        head.head.weight.zero_()
        head.head.bias.copy_(torch.tensor([0, 9, 9, -9.0]))  # the same for all: large, with a spot
    stage.validation_step(batch(labels=labels), 0)
    assert stage.classification is not None
    shares = stage.classification.compute()
    assert shares["accuracy/size"].item() == pytest.approx(2 / 3)
    assert shares["accuracy/has"] == 1 / 4
    truths, guesses = described(stage, batch(labels=labels))
    assert truths == ["small; spot", "large; spot, line", "?; none", "large; line"]
    assert guesses == ["large; spot"] * 4


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"classifier": None, "contrast": None, "text_encoder": None}, "there is no head to train"),
        ({"text_encoder": None}, "contrast needs an encoder of captions"),
        ({"contrast": None}, "such an encoder needs contrast"),
        ({"thinker": Thinker(vocab_size=288, dim=24, num_layers=1, num_heads=2, ffn_dim=32)}, "give one of them"),
        ({"classifier": Classifier(dim=31, num_classes=3)}, "classifier.init_args.dim is 31: it must be 32"),
        ({"contrast": ContrastHead(image_dim=8, text_dim=24)}, "contrast.init_args.image_dim is 8: it must be 32"),
        ({"contrast": ContrastHead(image_dim=32, text_dim=8)}, "contrast.init_args.text_dim is 8: it must be 24"),
        ({"classifier": Classifier(dim=32, num_classes=5)}, "classifier.init_args.num_classes to 3"),
        ({"data": Data(attributes=())}, "the data has no labels"),
        ({"data": Data(image_size=24)}, "data.init_args.image_size is 24 and the encoder's 16"),
        ({"data": Data(augmentation=ImageAugmentation(cutmix=1))}, "make images that no caption describes"),
        (
            {"text_encoder": TextEncoder(vocab_size=99, dim=24, num_heads=2)},
            "the TextEncoder 99: set model.init_args.text_encoder.init_args.vocab_size to",
        ),
        ({"frozen": ["vision_encoder", "classifier", "contrast", "text_encoder"]}, "leaves nothing to train"),
        ({"frozen": ["thinker"]}, "has no part 'thinker'"),
    ],
)
def test_what_does_not_fit_is_refused(given, words):
    with pytest.raises(UserError, match=words):
        make(**{"data": Data()} | given)


def test_images_without_captions_are_refused():
    with pytest.raises(UserError, match="the data has no captions"):
        make(data=Data()).loss(batch(captions=None, caption_ids=None))


def test_a_checkpoint_of_other_parts_or_other_classes_is_not_continued():
    stage, data = make(data=Data(), shown=0), Data()
    lineage = {
        "stage": "VisionPretraining",
        "step": 0,
        "config": "",
        "data": "",
        "tokenizer": data.tokenizer.fingerprint,
        "ancestors": {},
    }
    saved: dict[str, Any] = {
        "state_dict": stage.state_dict(),
        "parts": stage.parts,
        "lineage": lineage,
        "rng": None,
        "images": {"attributes": [("label", ["blue", "green", "red"], False)]},
    }
    stage.check_checkpoint(Checkpoint("run.ckpt", saved))
    stage.on_load_checkpoint(saved)
    for given, words in (
        ({"contrast": None, "text_encoder": None}, "run.ckpt also holds contrast, text_encoder"),
        ({"text_encoder": TextEncoder(vocab_size=288, dim=24, num_heads=3)}, "does not fit this configuration"),
    ):
        with pytest.raises(UserError, match=words):
            make(**given).check_checkpoint(Checkpoint("run.ckpt", saved))
    for values in (("blue", "green", "rot"), ("green", "blue", "red")):
        other = make(data=Data(attributes=(Attribute("label", values),)))
        with pytest.raises(UserError, match="does not have the classes that this checkpoint was trained with: label"):
            other.on_load_checkpoint(saved)


def test_only_parts_that_read_text_are_checked_for_the_tokenizer():
    foreign = {"tokenizer": "another"}
    for name in ("vision_encoder", "text_encoder"):
        stage = make()
        stage._trainer = SimpleNamespace(datamodule=Data(), precision="32-true")  # pyright: ignore
        stage.ancestors = {name: foreign}  # pyright: ignore
        if name == "vision_encoder":
            stage.setup("fit")
        else:
            with pytest.raises(UserError, match="was trained with another tokenizer"):
                stage.setup("fit")
