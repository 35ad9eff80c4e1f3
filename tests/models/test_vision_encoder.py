"""The vision encoder: independence of images, other sizes, positions, and pooling for the Thinker."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from omni.models.vision_encoder import VisionEncoder

SIZE, PATCH, DIM = 32, 8, 32


def make(seed: int = 0, **kwargs: object) -> VisionEncoder:
    torch.manual_seed(seed)
    options = {"image_size": SIZE, "patch_size": PATCH, "dim": DIM, "num_layers": 2, "num_heads": 2, "ffn_dim": 48}
    encoder = VisionEncoder(**{**options, "stem_width": 8, **kwargs})  # pyright: ignore
    with torch.no_grad():
        encoder.positions.normal_(std=0.5)  # like in a trained encoder, not near 0
    return encoder.eval()


def images(count: int = 3, height: int = SIZE, width: int = SIZE) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_a_batch_equals_single_images(stem):
    encoder = make(stem=stem, stem_depth=2)
    together = encoder(images())
    for number, image in enumerate(images()):
        alone = encoder(image[None])
        torch.testing.assert_close(together.pooled[number], alone.pooled[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together.patches[number], alone.patches[0], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(together.pooled[0], together.pooled[1], atol=1e-3)


def shuffled(batch: torch.Tensor) -> torch.Tensor:
    """Images with permuted patches, the same permutation in each."""
    side = SIZE // PATCH
    order = torch.randperm(side**2, generator=torch.Generator().manual_seed(2))
    patches = batch.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).flatten(2, 3)[:, :, order]
    return patches.unflatten(2, (side, side)).permute(0, 1, 2, 4, 3, 5).reshape(batch.shape)


@pytest.mark.parametrize("which", ["learned", "rotary", "neither"])
def test_permuted_patches_change_outputs_if_there_are_positions(which, monkeypatch):
    encoder = make(stem="patch")
    with torch.no_grad():
        if which != "learned":
            encoder.positions.zero_()
    if which != "rotary":
        nowhere = torch.zeros(2, 1, 1 + (SIZE // PATCH) ** 2)
        monkeypatch.setattr(encoder, "_rotary_positions", lambda rows, columns: nowhere)
    before, after = encoder(images()).pooled, encoder(shuffled(images())).pooled
    assert torch.allclose(before, after, atol=1e-5) == (which == "neither")
    assert not torch.equal(images(), shuffled(images()))


def test_learned_positions_are_interpolated_to_other_sizes():
    encoder = make()
    side = SIZE // PATCH
    with torch.no_grad():  # a ramp from top to bottom in one channel, from left to right in another
        encoder.positions.zero_()
        encoder.positions[..., 0] = torch.linspace(0, 1, side)[:, None]
        encoder.positions[..., 1] = torch.linspace(0, 1, side)
    table = encoder._learned_positions(2 * side, 3 * side)
    assert table.shape == (2 * side, 3 * side, DIM)
    assert (table[1:, :, 0] > table[:-1, :, 0]).all(dim=1)[1:-1].all()
    assert (table[:, 1:, 1] > table[:, :-1, 1]).all(dim=0)[1:-1].all()
    assert table[:, :, 0].std(dim=1).max() < 1e-5
    torch.testing.assert_close(table.mean((0, 1))[:2], torch.tensor([0.5, 0.5]), atol=0.02, rtol=0)
    assert torch.equal(encoder._learned_positions(side, side), encoder.positions)


def test_rotary_positions_keep_the_field_of_view():
    encoder = make()
    own, wide = encoder._rotary_positions(4, 4), encoder._rotary_positions(4, 8)
    assert own.shape == (2, 1, 17)
    assert own[:, 0, 0].tolist() == [0, 0]  # CLS
    assert own[0, 0, 1:].tolist() == [row for row in (1, 2, 3, 4) for _ in range(4)]
    assert own[1, 0, 1:].tolist() == [1, 2, 3, 4] * 4
    assert wide[1, 0, 1:9].tolist() == [0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4.25]


@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 32), (40, 56)])
def test_other_sizes_are_encoded(height, width):
    seen = make()(images(2, height, width))
    assert seen.pooled.shape == (2, DIM)
    assert seen.patches.shape == (2, height // PATCH, width // PATCH, DIM)
    assert seen.patches.isfinite().all()


@pytest.mark.parametrize("size", [(30, 32), (32, 30)])
def test_sizes_that_are_no_multiple_of_a_patch_are_refused(size):
    with pytest.raises(ValueError, match="cannot be cut into patches of 8"):
        make()(images(1, *size))


def gradients(encoder: VisionEncoder) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    seen = encoder.train()(images())
    (seen.pooled.square().sum() + seen.patches.square().mean()).backward()
    return {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_checkpointing_changes_no_gradient(dropout):
    encoder, runs = make(gradient_checkpointing=True, dropout=dropout), []
    encoder.transformer.blocks[0].get_submodule("attention").register_forward_hook(lambda *_: runs.append(1))
    plain, saving = gradients(make(dropout=dropout)), gradients(encoder)
    assert len(runs) == 2  # recomputed in the backward pass
    assert plain.keys() == saving.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(saving[name], gradient, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_every_parameter_gets_a_gradient(stem):
    encoder = make(stem=stem, stem_depth=2)
    found = gradients(encoder)
    assert found.keys() == dict(encoder.named_parameters()).keys()
    assert all(gradient.abs().sum() > 0 for gradient in found.values())


def test_the_thinker_gets_outputs_of_an_earlier_block():
    torch.manual_seed(0)
    encoder = VisionEncoder(image_size=16, patch_size=4, dim=16, num_layers=3, num_heads=2, ffn_dim=16, token_block=2)
    images, ran = torch.rand(2, 3, 16, 16), []
    for number, block in enumerate(encoder.transformer.blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    tokens = encoder.eval().tokens(images)
    assert ran == [0, 1]
    whole = encoder(images).patches.flatten(1, 2)
    assert ran == [0, 1, 0, 1, 2]
    encoder.transformer.blocks = encoder.transformer.blocks[:2]
    assert not torch.allclose(tokens, whole)
    torch.testing.assert_close(tokens, encoder(images).patches.flatten(1, 2))
    for wrong in (0, 4):
        with pytest.raises(ValueError, match=f"token_block must be one of the 3 blocks, from 1 on, not {wrong}"):
            VisionEncoder(image_size=16, patch_size=4, dim=16, num_layers=3, num_heads=2, token_block=wrong)


def test_the_thinker_gets_neighbouring_patches_concatenated():
    patches = torch.arange(16.0).view(1, 4, 4, 1).expand(-1, -1, -1, DIM)
    squares = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    shuffle, none = make(reduction="shuffle"), make()
    assert shuffle.reduce(patches)[0, :, ::DIM].tolist() == squares
    assert none.reduce(patches)[0, :, 0].tolist() == list(range(16))
    for encoder in (shuffle, none):
        tokens = encoder.tokens(images())
        assert tokens.shape == (3, encoder.num_tokens, encoder.token_dim)
    assert (shuffle.num_tokens, shuffle.token_dim) == (4, 4 * DIM)
    assert (none.num_tokens, none.token_dim) == (16, DIM)
    with pytest.raises(ValueError, match="3 × 4 patches cannot be joined in squares of 2 × 2"):
        shuffle.reduce(patches[:, :3])


@pytest.mark.parametrize("size", [(SIZE, SIZE), (16, 48)])
def test_attention_maps_equal_those_of_the_last_block(size, monkeypatch):
    encoder, batch = make(), images(2, *size)
    seen = []
    real = torch.nn.functional.scaled_dot_product_attention

    def watched(query, key, value, **kwargs):
        seen.append((query.detach(), key.detach()))
        return real(query, key, value, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    encoder(batch)
    query, key = seen[-1]
    shares = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)[:, :, 0]
    maps = encoder.attention_maps(batch)
    assert maps.shape == (2, 2, size[0] // PATCH, size[1] // PATCH)
    torch.testing.assert_close(maps.flatten(2), shares[:, :, 1:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(maps.sum((2, 3)) + shares[:, :, 0], torch.ones(2, 2))  # with CLS itself
    assert not encoder.transformer.blocks[-1].get_submodule("attention")._forward_pre_hooks


def test_pixels_are_normalised_by_the_encoder_itself():
    plain, grey = make(mean=[0, 0, 0], std=[1, 1, 1]), make(mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])
    torch.testing.assert_close(grey(images()).pooled, plain((images() - 0.5) / 0.25).pooled, atol=1e-5, rtol=1e-4)
    assert "mean" not in plain.state_dict()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"image_size": 30}, "must be a multiple of patch_size"),
        ({"reduction": "shuffle", "reduction_factor": 3}, "must divide the 4 patches of a side"),
        ({"std": [1, 0, 1]}, "those of std over 0"),
        ({"patch_size": 4, "image_size": 36, "stem": "conv", "num_heads": 3}, "num_heads"),
        ({"patch_size": 6, "image_size": 36}, "must be 2, 4, 8, 16 or 32, not 6"),
    ],
)
def test_invalid_sizes_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        make(**arguments)


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_flops_equal_those_that_pytorch_counts(stem):
    encoder = make(stem=stem, stem_depth=2, dim=64, ffn_dim=128)
    with FlopCounterMode(display=False) as counter:
        encoder(images(1))
    by_kind = {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}
    products = sum(count for name, count in by_kind.items() if "attention" not in name)
    assert encoder.flops_per_image == pytest.approx(3 * products, rel=0.03)  # the backward pass takes two more
