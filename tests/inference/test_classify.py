"""Image classification from Python and by the command, with trained classes or any labels."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

import omni
from omni.cli import main
from omni.errors import UserError
from omni.inference.classifier import VisionModel
from omni.media.images import Preprocessing, read_image, to_pixels
from omni.models.classifier import Classifier
from omni.models.contrast import ContrastHead
from omni.models.part import Part
from omni.models.text_encoder import TextEncoder
from omni.models.vision_encoder import VisionEncoder
from omni.text.tokenizer import BOS, EOS, ByteTokenizer

NAMES = ("blue", "green", "red")


def save(path: str, attributes: list[Any], **parts: Part) -> None:
    """Writes a checkpoint as stage C does."""
    state = {f"{name}.{key}": w for name, part in parts.items() for key, w in part.state_dict().items()}
    torch.save(
        {
            "state_dict": state,
            "parts": {name: part.recipe for name, part in parts.items()},
            "lineage": {"stage": "VisionPretraining", "step": 1, "tokenizer": ByteTokenizer().fingerprint},
            "tokenizer": ByteTokenizer().state(),
            "images": {"size": 16, "fit": "stretch", "attributes": attributes},
        },
        path,
    )


@pytest.fixture
def trained(pictures: Path) -> SimpleNamespace:
    """Checkpoints of an untrained encoder with a classifier, with a contrast head, and with both."""
    torch.manual_seed(0)
    encoder = VisionEncoder(image_size=16, patch_size=4, dim=32, num_layers=1, num_heads=2, ffn_dim=48, stem_width=8)
    classifier = Classifier(dim=32, num_classes=5, dropout=0.5)
    contrast = ContrastHead(image_dim=32, text_dim=24, dim=16)
    text_encoder = TextEncoder(vocab_size=288, dim=24, num_layers=1, num_heads=2, ffn_dim=32, dropout=0.5)
    with torch.no_grad():
        classifier.head.weight.mul_(100)  # confident
    attributes = [("colour", list(NAMES), False), ("has", ["spot", "line"], True)]
    words = {"contrast": contrast, "text_encoder": text_encoder}
    save("classes.ckpt", attributes, vision_encoder=encoder, classifier=classifier)
    save("words.ckpt", [], vision_encoder=encoder, **words)
    save("both.ckpt", attributes, vision_encoder=encoder, classifier=classifier, **words)
    parts = {"encoder": encoder.eval(), "classifier": classifier.eval(), "contrast": contrast.eval()}
    files = [f"pictures/val/{colour}/{number}.png" for colour in NAMES for number in range(2)]
    return SimpleNamespace(**parts, text_encoder=text_encoder.eval(), files=files)


def pooled(trained: Any) -> torch.Tensor:
    pixels = to_pixels(torch.stack([Preprocessing(16, "stretch")(read_image(file)) for file in trained.files]))
    return trained.encoder(pixels).pooled


class TestPython:
    def test_gives_the_probabilities_of_the_trained_classes(self, trained):
        answers = omni.classify(trained.files, "classes.ckpt", device="cpu")
        logits = trained.classifier(pooled(trained))
        colours, has = logits[:, :3].softmax(1), logits[:, 3:].sigmoid()
        assert len(answers) == len(trained.files)
        for answer, colour, several in zip(answers, colours.tolist(), has.tolist(), strict=True):
            assert answer["colour"] == pytest.approx(dict(zip(NAMES, colour, strict=True)), abs=1e-5)
            assert answer["has"] == pytest.approx({"spot": several[0], "line": several[1]}, abs=1e-5)
            assert list(answer["colour"].values()) == sorted(answer["colour"].values(), reverse=True)
        assert len({str(answer) for answer in answers}) == len(answers)

    def test_any_labels_can_be_used(self, trained):
        labels = ["a red one", "blue", "something green, with a spot"]
        answers = omni.classify(trained.files, "words.ckpt", labels=labels, device="cpu")
        vectors = []
        for label in labels:  # one by one, without padding
            tokens = torch.tensor([[BOS, *ByteTokenizer().encode(label), EOS]])
            vectors.append(trained.text_encoder(tokens, torch.ones_like(tokens, dtype=torch.bool)))
        texts = trained.contrast.embed_texts(torch.cat(vectors))
        scores = trained.contrast.scores(trained.contrast.embed_images(pooled(trained)), texts).softmax(1)
        for answer, shares in zip(answers, scores.tolist(), strict=True):
            assert answer == {"label": pytest.approx(dict(zip(labels, shares, strict=True)), abs=1e-5)}
        (alone,) = omni.classify(trained.files[0], "both.ckpt", labels=labels, device="cpu")
        assert alone["label"] == pytest.approx(answers[0]["label"], abs=1e-5)

    def test_features_are_those_of_the_encoder(self, trained, monkeypatch):
        model = VisionModel("classes.ckpt", device="cpu")
        monkeypatch.setattr("omni.inference.classifier._BATCH", 4)
        torch.testing.assert_close(model.embed(trained.files), pooled(trained), atol=1e-5, rtol=1e-4)
        with pytest.raises(UserError, match=r"nowhere\.png: there is no such file"):
            model.embed([*trained.files, "nowhere.png"])

    def test_files_bytes_and_pixels_give_the_same_result_in_any_batch(self, trained, monkeypatch):
        file = Path(trained.files[0])
        sources = [str(file), file, file.read_bytes(), read_image(file)]
        answers = omni.classify(sources, "classes.ckpt", device="cpu")
        assert all(answer == answers[0] for answer in answers)
        whole = omni.classify(trained.files, "classes.ckpt", device="cpu")
        monkeypatch.setattr("omni.inference.classifier._BATCH", 4)
        for one, other in zip(omni.classify(trained.files, "classes.ckpt", device="cpu"), whole, strict=True):
            assert one["colour"] == pytest.approx(other["colour"], abs=1e-5)
        assert omni.classify([], "classes.ckpt", device="cpu") == []

    @pytest.mark.parametrize(
        ("images", "checkpoint", "labels", "words"),
        [
            ("nowhere.png", "classes.ckpt", None, "nowhere.png: there is no such file"),
            (b"no image", "classes.ckpt", None, "no image, whatever its name"),
            (torch.zeros(3, 8, 8), "classes.ckpt", None, "of uint8"),
            (torch.zeros(8, 8, dtype=torch.uint8), "classes.ckpt", None, r"give \(3, height, width\)"),
            ([], "words.ckpt", None, "has no classifier: give labels to choose from"),
            ([], "classes.ckpt", ["red"], "was not trained on captions: leave labels out"),
            ([], "words.ckpt", ["red", " "], "a label is empty"),
            ([], "words.ckpt", [], "a label is empty"),
            ([], "words.ckpt", ["red", "blue", "red"], "'red' is given twice"),
            ([], "nowhere.ckpt", None, "nowhere.ckpt does not exist"),
        ],
    )
    def test_invalid_arguments_are_refused(self, trained, images, checkpoint, labels, words):
        with pytest.raises(UserError, match=words):
            omni.classify(images, checkpoint, labels=labels, device="cpu")

    def test_a_checkpoint_without_vision_encoder_is_refused(self, trained):
        save("blind.ckpt", [], classifier=trained.classifier)
        with pytest.raises(UserError, match="holds no part 'vision_encoder'; it holds: classifier"):
            omni.classify(trained.files, "blind.ckpt", device="cpu")
        with pytest.raises(UserError, match="device 'abacus' cannot be used"):
            omni.classify(trained.files, "classes.ckpt", device="abacus")


class TestCommand:
    def test_prints_the_likeliest_of_each_attribute(self, trained, capsys):
        main(["classify", *trained.files[:2], "--checkpoint", "classes.ckpt", "--top", "2"])
        lines = capsys.readouterr().out.splitlines()
        for line, answer in zip(lines, omni.classify(trained.files[:2], "classes.ckpt", device="cpu"), strict=True):
            colours = ", ".join(f"{name} {share:.1%}" for name, share in list(answer["colour"].items())[:2])
            has = ", ".join(f"{name} {share:.1%}" for name, share in answer["has"].items() if share > 0.5) or "none"
            assert line.partition(": ")[2] == f"colour: {colours}; has: {has}"
        assert [line.partition(": ")[0] for line in lines] == trained.files[:2]

    def test_classifies_with_labels(self, trained, capsys):
        labels = ["a red one", "blue"]
        main(["classify", trained.files[0], "--checkpoint", "both.ckpt", "--labels", *labels, "--top", "1"])
        (answer,) = omni.classify(trained.files[0], "both.ckpt", labels=labels, device="cpu")
        name, share = next(iter(answer["label"].items()))
        assert capsys.readouterr().out == f"{trained.files[0]}: {name} {share:.1%}\n"

    def test_continues_after_unreadable_images(self, trained, capfd, monkeypatch):
        monkeypatch.setattr("omni.inference.classifier._BATCH", 2)  # the first batch has no readable image
        Path("text.jpg").write_text("no image")
        Path("cut.png").write_bytes(Path(trained.files[0]).read_bytes()[:200])
        images = ["nowhere.png", "text.jpg", trained.files[0], "cut.png", trained.files[1]]
        with pytest.raises(SystemExit) as stop:
            main(["classify", *images, "--checkpoint", "classes.ckpt"])
        assert stop.value.code == 2
        out, err = capfd.readouterr()
        assert [line.split(": ")[0] for line in out.splitlines()] == trained.files[:2]
        assert [line.split(": ")[:2] for line in err.splitlines()] == [
            ["omni", name] for name in ("nowhere.png", "text.jpg", "cut.png")
        ]

    def test_reads_standard_input(self, trained, capsys, monkeypatch):
        content = io.BytesIO()
        Image.open(trained.files[3]).save(content, "PNG")
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content.getvalue())))
        main(["classify", "-", "--checkpoint", "classes.ckpt"])
        from_stdin = capsys.readouterr().out
        main(["classify", trained.files[3], "--checkpoint", "classes.ckpt"])
        assert from_stdin.partition(": ")[2] == capsys.readouterr().out.partition(": ")[2] != ""

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["a.png", "--checkpoint", "none.ckpt"], "none.ckpt does not exist"),
            (["--checkpoint", "classes.ckpt"], "images"),
            (["a.png"], "checkpoint"),
            (["a.png", "--checkpoint", "classes.ckpt", "--labels"], "expected at least one argument"),
            (["a.png", "--checkpoint", "classes.ckpt", "--labels", "red", "blue"], "was not trained on captions"),
            (["a.png", "--checkpoint", "words.ckpt"], "has no classifier"),
            (["a.png", "--checkpoint", "classes.ckpt", "--top", "0"], "top must be 1 or more, not 0"),
            (["a.png", "--checkpoint", "classes.ckpt"], "a.png: there is no such file"),
        ],
    )
    def test_errors_end_in_one_line(self, trained, fails, arguments, words):
        assert words in fails(main, ["classify", *arguments])
