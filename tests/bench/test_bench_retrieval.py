"""The benchmark of retrieval: the peer, and a race on a few images."""

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from toy_speech import save

from omni.batch import ImageBatch
from omni.bench.small_clip import SmallClip, small_resnet
from omni.cli import main
from omni.models.vision_encoder import VisionEncoder
from omni.text.ctc_vocabulary import CharacterVocabulary
from omni.text.tokenizer import PAD
from omni.training.configuration import Configuration
from omni.training.shipped import CONFIGS


def test_the_resnet_maps_images_of_any_size_to_vectors():
    for side in (32, 48):
        assert small_resnet()(torch.rand(2, 3, side, side)).shape == (2, 256)


def test_a_text_depends_on_its_own_tokens_only():
    model = SmallClip(50, 8).eval()
    short = torch.tensor([[1, 7, 9, 2]])
    padded = torch.tensor([[1, 7, 9, 2, PAD, PAD], [1, 5, 5, 5, 5, 2]])
    torch.testing.assert_close(model.embed_texts(padded)[:1], model.embed_texts(short))


def test_the_loss_of_separated_pairs_falls():
    torch.manual_seed(0)
    model = SmallClip(50, 8)
    images = torch.stack([torch.full((3, 16, 16), level) for level in (0.1, 0.9)])
    batch = ImageBatch(
        images,
        torch.zeros(2, 0),
        torch.arange(2),
        captions=torch.tensor([[[1, 7, 2]], [[1, 9, 2]]]),
        caption_ids=torch.tensor([[0], [1]]),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(40):
        optimizer.zero_grad()
        model.loss(batch).backward()
        optimizer.step()
    assert model.loss(batch).item() < 0.1 < math.log(2)


def _write_images(workplace: Path) -> None:
    rows = ["image,caption"]
    for number in range(12):
        colour = ("red", "blue")[number % 2]
        value = (250, 10, 10) if colour == "red" else (10, 10, 250)
        for folder in ("flickr/Images", f"labelled/{colour}"):
            (workplace / folder).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), tuple(max(0, part - number) for part in value)).save(
                workplace / folder / f"{number}.png"
            )
        rows += [f"{number}.png,a {colour} picture {number} {k}" for k in range(2)]
    (workplace / "flickr/captions.txt").write_text("\n".join(rows) + "\n")
    (workplace / "flickr/train.txt").write_text("".join(f"{n}.png\n" for n in range(8)))
    (workplace / "flickr/val.txt").write_text("".join(f"{n}.png\n" for n in range(8, 12)))


OPTIONS = (
    "--train flickr/captions.txt@train.txt --val flickr/captions.txt@val.txt --steps 2 --image_steps 1 --repeats 2 "
    "--learning_rates [1e-3,2e-3] --vocab_size 320 --json report.json"
)


@pytest.mark.parametrize("images", ["labelled", "null"])
def test_the_race_reports_every_model_over_its_seeds(workplace, capsys, images):
    _write_images(workplace)
    report = main(["bench", "retrieval", *OPTIONS.split(), "--images", images])
    peers = ["CLIP", "CLIP, encoder pretrained"] if images == "labelled" else ["CLIP"]
    assert [result.measure for result in report.results] == ["recall@1", "recall@5"]
    for result, row in zip(report.results, json.loads(Path("report.json").read_text())["results"], strict=True):
        assert [*result.values] == ["omni", *peers]
        assert all(0 <= value <= 100 for value in result.values.values())
        assert [*row["ratios"]] == peers
        assert all(len(ratios) == 2 for ratios in result.ratios.values())
    printed = capsys.readouterr().out
    assert "omni, captions, seed 1: recall@1 " in printed
    assert "CLIP, captions, seed 0, lr 0.002: recall@1 " in printed
    assert "8 to train on, 4 others to report" in printed
    assert "AdamW, CLIP at " in printed


def test_omni_starts_from_a_checkpoint(workplace, monkeypatch, capsys):
    _write_images(workplace)
    torch.manual_seed(3)
    encoder = Configuration(["--config", str(CONFIGS / "bench/cifar10.yaml")]).make("model").vision_encoder
    save(Path("start.ckpt"), "vision_encoder", encoder, CharacterVocabulary(" ab"))
    taken = []
    load = VisionEncoder.load_state_dict
    monkeypatch.setattr(
        VisionEncoder, "load_state_dict", lambda self, weights: taken.append(weights) or load(self, weights)
    )
    report = main(["bench", "retrieval", *OPTIONS.split(), "--images", "null", "--start", "start.ckpt"])
    assert len(taken) == 2
    for weights in taken:
        torch.testing.assert_close(weights, encoder.state_dict())
    assert [*report.results[0].ratios] == ["CLIP"]
    assert "omni's after start.ckpt" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--train", "nowhere.txt"], "nowhere.txt"),
        (["--learning_rates", "[]"], "learning_rates is empty"),
        (["--steps", "0"], "steps is 0"),
        (["--start", "nowhere.ckpt"], "nowhere.ckpt"),
    ],
)
def test_bad_arguments_end_in_one_line(workplace, fails, arguments, words):
    _write_images(workplace)
    assert words in fails(main, ["bench", "retrieval", *OPTIONS.split(), "--images", "null", *arguments])
