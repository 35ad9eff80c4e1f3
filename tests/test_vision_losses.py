"""Losses and metrics of images, compared with plain loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from omni.batch import Attribute
from omni.losses import classification_loss, contrastive_loss
from omni.metrics import Classification, Retrieval
from omni.models.contrast import ContrastHead

KIND = Attribute("kind", ("a", "b", "c"))
TRAITS = Attribute("traits", ("x", "y"), several=True)
MANY = Attribute("many", tuple("abcdefg"))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def naive_contrast(scores: list[list[float]], ids: list[int], kind: str) -> float:
    """Pair by pair, as in the papers; equal captions of other images, and missing ones, are skipped."""
    total, rows = 0.0, range(len(ids))
    for i in rows:
        for j in rows:
            if ids[i] < 0 or ids[j] < 0 or (i != j and ids[i] == ids[j]):
                continue
            if kind == "sigmoid":
                sign = 1 if i == j else -1
                total += math.log(1 + math.exp(-sign * scores[i][j]))
            elif i == j:
                others = [k for k in rows if k == i or (ids[k] >= 0 and ids[k] != ids[i])]
                among_captions = math.log(sum(math.exp(scores[i][k]) for k in others)) - scores[i][i]
                among_images = math.log(sum(math.exp(scores[k][i]) for k in others)) - scores[i][i]
                total += (among_captions + among_images) / 2
    return total


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4], [0, 1, 0, 2, 1], [3, -1, 3, -1, 5], [7, 7, 7, 7, 7]])
def test_the_contrastive_loss_equals_the_double_loop(kind, ids):
    scores = 3 * torch.randn(5, 5, generator=rng())
    loss = contrastive_loss(scores, torch.tensor(ids), kind=kind)
    assert loss.item() == pytest.approx(naive_contrast(scores.tolist(), ids, kind), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_equal_captions_are_no_negatives(kind):
    scores = torch.randn(3, 3, generator=rng()).requires_grad_()
    contrastive_loss(scores, torch.tensor([4, 9, 4]), kind=kind).backward()
    assert scores.grad is not None
    assert scores.grad[0, 2] == scores.grad[2, 0] == 0
    assert (scores.grad.diagonal() < 0).all()  # each is attracted to its own
    assert scores.grad[0, 1] > 0 < scores.grad[1, 2]  # and repelled from those of others
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_images_without_a_caption_have_no_contrastive_loss(kind):
    scores = torch.randn(4, 4, generator=rng()).requires_grad_()
    contrastive_loss(scores, torch.tensor([-1, 0, 1, -1]), kind=kind).backward()
    assert scores.grad is not None
    assert scores.grad[[0, 3]].abs().sum() == scores.grad[:, [0, 3]].abs().sum() == 0
    middle = contrastive_loss(scores[1:3, 1:3], torch.tensor([0, 1]), kind=kind)
    assert contrastive_loss(scores, torch.tensor([-1, 0, 1, -1]), kind=kind).item() == pytest.approx(middle.item())


def test_the_temperature_is_learned_and_bounded():
    for loss in ("sigmoid", "softmax"):
        head = ContrastHead(image_dim=8, text_dim=6, dim=4, loss=loss)
        images, texts = head.embed_images(torch.randn(3, 8)), head.embed_texts(torch.randn(3, 6))
        torch.testing.assert_close(images.norm(dim=1), torch.ones(3))
        contrastive_loss(head.scores(images, texts), torch.arange(3), kind=loss).backward()
        trained = {name for name, p in head.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        assert trained == {"image.weight", "text.weight", "log_scale"} | ({"bias"} if loss == "sigmoid" else set())
        with torch.no_grad():
            head.log_scale.fill_(50.0)
        assert (head.scores(images, texts) - head.bias).abs().max() <= 100.001


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_a_class_is_the_cross_entropy(smoothing):
    logits, truth = torch.randn(6, 3, generator=rng()), torch.tensor([0, 2, 1, 1, 0, 2])
    labels = F.one_hot(truth, 3).float()
    labels[4] = -1  # unknown
    loss = classification_loss(logits, labels, [KIND], smoothing=smoothing)
    expected = F.cross_entropy(logits, truth, reduction="none", label_smoothing=smoothing)
    expected[4] = 0
    torch.testing.assert_close(loss, expected)


def test_mixed_images_have_soft_targets():
    logits = torch.randn(1, 3, generator=rng())
    loss = classification_loss(logits, torch.tensor([[0.3, 0.0, 0.7]]), [KIND])
    alone = [F.cross_entropy(logits, torch.tensor([number])).item() for number in range(3)]
    assert loss.item() == pytest.approx(0.3 * alone[0] + 0.7 * alone[2], rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_several_attributes_are_summed_and_those_of_several_values_are_binary(smoothing):
    logits = torch.randn(3, 5, generator=rng())
    labels = torch.tensor([[0, 1, 0, 1, 1], [1, 0, 0, 0, 0], [-1, -1, -1, 0, 1]]).float()
    expected = []
    for row, target in zip(logits.tolist(), labels.tolist(), strict=True):
        total = 0.0
        if target[0] >= 0:
            norm = math.log(sum(math.exp(score) for score in row[:3]))
            for score, share in zip(row[:3], target[:3], strict=True):
                total += (share * (1 - smoothing) + smoothing / 3) * (norm - score)
        for score, share in zip(row[3:], target[3:], strict=True):
            share = share * (1 - smoothing) + smoothing / 2
            total += share * math.log(1 + math.exp(-score)) + (1 - share) * math.log(1 + math.exp(score))
        expected.append(total)
    loss = classification_loss(logits, labels, [KIND, TRAITS], smoothing=smoothing)
    torch.testing.assert_close(loss, torch.tensor(expected))


def test_accuracy_does_not_depend_on_batches():
    attributes = (KIND, TRAITS, MANY)
    generator = rng()
    kinds, manys = (torch.randint(size, (40,), generator=generator) for size in (3, 7))
    several = torch.randint(2, (40, 2), generator=generator).float()
    logits = torch.randn(40, 12, generator=generator)
    labels = torch.cat((F.one_hot(kinds, 3), several, F.one_hot(manys, 7)), 1).float()
    truths = list(zip(kinds.tolist(), manys.tolist(), strict=True))
    labels[5, :3] = labels[9, 5:] = -1
    metric = Classification(attributes)
    for start, stop in ((0, 1), (1, 17), (17, 40)):
        metric.update(logits[start:stop], labels[start:stop])

    right, near, counted = {"kind": 0, "traits": 0, "many": 0}, 0, {"kind": 0, "traits": 0, "many": 0}
    table, seen = [[0] * 3 for _ in range(3)], {}
    for row, target, (kind, many), traits in zip(
        logits.tolist(), labels.tolist(), truths, several.tolist(), strict=True
    ):
        if target[0] >= 0:
            counted["kind"] += 1
            guess = max(range(3), key=lambda value: row[value])
            right["kind"] += guess == kind
            table[kind][guess] += 1
        if target[5] >= 0:
            counted["many"] += 1
            order = sorted(range(7), key=lambda value: -row[5 + value])
            right["many"] += order[0] == many
            near += many in order[:5]
        fits = [(score > 0) == (share > 0) for score, share in zip(row[3:5], traits, strict=True)]
        counted["traits"] += 1
        right["traits"] += all(fits)
        for value, fit in zip("xy", fits, strict=True):
            hits, shown = seen.get(value, (0, 0))
            seen[value] = (hits + fit, shown + 1)

    shares = {name: right[name] / counted[name] for name in right}
    found = {name: value.item() for name, value in metric.compute().items()}
    assert found.pop("accuracy") == pytest.approx(sum(shares.values()) / 3)
    assert found.pop("top5/many") == pytest.approx(near / counted["many"])
    assert found == {f"accuracy/{name}": pytest.approx(share) for name, share in shares.items()}
    assert counted == {"kind": 39, "traits": 40, "many": 39}
    confusion = metric.confusion()
    assert confusion.keys() == {"kind", "many"}
    assert confusion["kind"].tolist() == table
    per_class = {(name, value): (shown, share) for name, value, shown, share in metric.per_class()}
    for value, number in zip("abc", range(3), strict=True):
        assert per_class["kind", value] == (
            sum(table[number]),
            pytest.approx(table[number][number] / sum(table[number])),
        )
    for value, (hits, shown) in seen.items():
        assert per_class["traits", value] == (shown, pytest.approx(hits / shown))


def test_a_class_without_images_is_excluded():
    metric = Classification([KIND])
    metric.update(torch.eye(3)[:2], torch.eye(3)[:2])
    assert metric.compute() == {"accuracy": 1}
    assert [share for *_, share in metric.per_class()][:2] == [1, 1]
    assert math.isnan(metric.per_class()[2][3])


def naive_retrieval(images: torch.Tensor, texts: torch.Tensor, whose: list[int], said: list[int]) -> dict[str, float]:
    """For each query, the number of wrong results that are at least as near as the nearest right one."""

    def fits(text: int, image: int) -> bool:
        return any(said[other] == said[text] and whose[other] == image for other in range(len(whose)))

    scores = (texts @ images.T).tolist()
    found = {}
    for rank in (1, 5):
        hits = []
        for text, row in enumerate(scores):
            best = max(score for image, score in enumerate(row) if fits(text, image))
            hits.append(sum(score >= best for image, score in enumerate(row) if not fits(text, image)) < rank)
        found[f"image_recall@{rank}"] = sum(hits) / len(hits)
        hits = []
        for image in range(len(images)):
            column = [row[image] for row in scores]
            if not any(fits(text, image) for text in range(len(texts))):
                continue
            best = max(score for text, score in enumerate(column) if fits(text, image))
            hits.append(sum(score >= best for text, score in enumerate(column) if not fits(text, image)) < rank)
        found[f"text_recall@{rank}"] = sum(hits) / len(hits)
        found[f"recall@{rank}"] = (found[f"image_recall@{rank}"] + found[f"text_recall@{rank}"]) / 2
    return found


def test_retrieval_equals_the_double_loop_for_any_batches():
    generator = rng()
    images = F.normalize(torch.randn(20, 3, generator=generator), dim=1)
    whose = [i for i in range(18) for _ in range(1 + i % 3)]  # the last two images have no caption
    said = [number % 21 for number in range(len(whose))]  # some captions belong to two images
    noise = torch.randn(len(whose), 3, generator=generator)
    texts = F.normalize(images[whose] + 0.7 * noise, dim=1)
    metric = Retrieval()
    for start, stop in ((0, 3), (3, 11), (11, 20)):
        of = [number for number, image in enumerate(whose) if start <= image < stop]
        rows, ids = torch.tensor([100 + whose[n] for n in of]), torch.tensor([said[n] for n in of])
        metric.update(images[start:stop], torch.arange(100 + start, 100 + stop), texts[of], rows.long(), ids.long())
    expected = naive_retrieval(images, texts, whose, said)
    found = {name: value.item() for name, value in metric.compute().items()}
    assert found == {name: pytest.approx(share) for name, share in expected.items()}
    assert 0 < found["recall@1"] < found["recall@5"] < 1


def test_equal_embeddings_retrieve_nothing():
    metric, same = Retrieval(), F.normalize(torch.ones(6, 4), dim=1)
    metric.update(same, torch.arange(6), same, torch.arange(6), torch.arange(6))
    assert metric.compute()["recall@1"] == 0
    assert metric.compute()["recall@5"] == 0
