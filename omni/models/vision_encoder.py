"""The vision encoder: a Vision Transformer."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni.layers.attention_weights import record_attention
from omni.layers.stem import ConvStem, PatchStem
from omni.layers.transformer import Transformer
from omni.media.images import IMAGENET_MEAN, IMAGENET_STD
from omni.models.interfaces import ImageEncoder

_ROPE_THETA = 100.0  # base of the rotary wavelengths, in patches


class VisionOutput(NamedTuple):
    """Output of the vision encoder.

    Attributes:
        pooled: (batch, dim): a vector for the image, the mean of its patches.
        patches: (batch, rows, columns, dim): a vector for each patch, after the last norm.
    """

    pooled: Tensor
    patches: Tensor


class VisionEncoder(ImageEncoder):
    """A bidirectional Transformer over the patches of an image and a CLS token (ViT, arXiv:2010.11929).

    Images are pixels from 0 to 1, which the encoder normalises itself. Other sizes than `image_size` are allowed if
    they are multiples of `patch_size`: learned positions are interpolated, and rotary ones stretched, to the same field
    of view.

    Args:
        image_size: Side of the training images in pixels.
        patch_size: Side of a patch in pixels.
        stem: `patch`, one matrix for each patch, or `conv`, 3 × 3 convolutions, which learn from fewer images.
        stem_width: Channels of a conv stem after its first halving; each further one doubles them.
        stem_depth: Convolutions of a conv stem at each resolution.
        dim: Width of the residual stream.
        num_layers: Number of blocks.
        num_heads: Heads.
        ffn_dim: Hidden width of the feed-forward network.
        dropout: Dropout in training, of attention weights, of updates, and of a conv stem's residuals.
        reduction: How patches become fewer tokens for the Thinker: `none`, or `shuffle`, which concatenates the patches
            of a square to one token (pixel shuffle).
        reduction_factor: Side of that square.
        token_block: Number of the block after which the Thinker's tokens are taken (in LLaVA, arXiv:2304.08485, the
            second to last); the last if not given. Earlier blocks describe the patch, later ones the whole image.
        mean: Means of red, green and blue, which are subtracted.
        std: Standard deviations of red, green and blue, by which pixels are divided.
        gradient_checkpointing: Whether activations of blocks are recomputed in the backward pass.
    """

    def __init__(
        self,
        *,
        image_size: int = 224,
        patch_size: int = 16,
        stem: Literal["patch", "conv"] = "conv",
        stem_width: int = 16,
        stem_depth: int = 1,
        dim: int = 128,
        num_layers: int = 4,
        num_heads: int = 2,
        ffn_dim: int = 512,
        dropout: float = 0.0,
        reduction: Literal["none", "shuffle"] = "none",
        reduction_factor: int = 2,
        token_block: int | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.image_size, self.patch_size, self.dim = image_size, patch_size, dim
        self.grid = image_size // patch_size
        self.reduction_factor, self.token_block = reduction_factor if reduction == "shuffle" else 1, token_block
        self._check(num_layers, mean, std)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.stem = (
            ConvStem(dim, patch_size=patch_size, width=stem_width, depth=stem_depth, dropout=dropout)
            if stem == "conv"
            else PatchStem(dim, patch_size=patch_size)
        )
        self.cls = nn.Parameter(torch.randn(dim) * 0.02)  # flat, so that it does not decay
        self.positions = nn.Parameter(torch.randn(self.grid, self.grid, dim) * 0.02)
        self.transformer = Transformer(
            dim=dim,
            num_layers=num_layers,
            num_heads=num_heads,
            ffn_dim=ffn_dim,
            activation="gelu",
            causal=False,
            rope_axes=2,
            rope_theta=_ROPE_THETA,
            dropout=dropout,
            gradient_checkpointing=gradient_checkpointing,
        )

    mean: Tensor
    std: Tensor

    def _check(self, num_layers: int, mean: Sequence[float], std: Sequence[float]) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size ({self.image_size}) must be a multiple of patch_size ({self.patch_size})")
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError("mean and std must hold three numbers, those of std over 0")
        if self.grid % self.reduction_factor:
            raise ValueError(
                f"reduction_factor ({self.reduction_factor}) must divide the {self.grid} patches of a side "
                "(image_size / patch_size)"
            )
        if self.token_block is not None and not 1 <= self.token_block <= num_layers:
            raise ValueError(f"token_block must be one of the {num_layers} blocks, from 1 on, not {self.token_block}")

    @property
    def num_tokens(self) -> int:
        """Number of tokens of an image of `image_size` for the Thinker."""
        return (self.grid // self.reduction_factor) ** 2

    @property
    def token_grid(self) -> tuple[int, int]:
        """Rows and columns of those tokens."""
        side = self.grid // self.reduction_factor
        return side, side

    @property
    def token_dim(self) -> int:
        """Width of the tokens for the Thinker."""
        return self.dim * self.reduction_factor**2

    @property
    def flops_per_image(self) -> float:
        """FLOPs of training on an image of `image_size` without attention products (see `Thinker.flops_per_token`)."""
        used = sum(p.numel() for p in self.transformer.parameters()) * (self.grid**2 + 1)
        side = self.image_size
        for module in self.stem.modules():
            if isinstance(module, nn.Conv2d):
                side //= module.stride[0]
                used += module.weight.numel() * side**2
            elif isinstance(module, nn.Linear):
                used += module.weight.numel() * self.grid**2
        return 6.0 * used

    def forward(self, images: Tensor) -> VisionOutput:
        """Encodes images.

        Args:
            images: (batch, 3, height, width), pixels from 0 to 1.

        Raises:
            ValueError: If the sides are not multiples of the patch size.
        """
        return self._run(images, None)

    def _run(self, images: Tensor, num_blocks: int | None) -> VisionOutput:
        x, positions, (rows, columns) = self._embed(images)
        hidden = self.transformer(x, positions=positions, num_blocks=num_blocks).hidden
        patches = hidden[:, 1:]
        return VisionOutput(patches.mean(1), patches.unflatten(1, (rows, columns)))

    def tokens(self, images: Tensor) -> Tensor:
        """Tokens of images (batch, 3, height, width) for the Thinker: (batch, tokens, token_dim), in reading order."""
        return self.reduce(self._run(images, self.token_block).patches)

    def reduce(self, patches: Tensor) -> Tensor:
        """Makes fewer tokens of patches (batch, rows, columns, dim): (batch, tokens, token_dim)."""
        side = self.reduction_factor
        batch, rows, columns, dim = patches.shape
        if rows % side or columns % side:
            raise ValueError(f"{rows} × {columns} patches cannot be joined in squares of {side} × {side}")
        squares = patches.reshape(batch, rows // side, side, columns // side, side, dim)
        return squares.transpose(2, 3).reshape(batch, rows * columns // side**2, self.token_dim)

    @torch.no_grad()
    def attention_maps(self, images: Tensor) -> Tensor:
        """Attention weights of the CLS token over patches in the last block: (batch, heads, rows, columns)."""
        with record_attention(self.transformer.blocks[-1]) as weights:
            rows, columns = self(images).patches.shape[1:3]
        (found,) = weights.values()
        return found[:, :, 0, 1:].unflatten(-1, (rows, columns))

    def _embed(self, images: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """The CLS token and patches (batch, 1 + patches, dim), their rotary positions, and the grid's sides."""
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f"images of {height} × {width} pixels cannot be cut into patches of {self.patch_size}")
        pixels = ((images - self.mean) / self.std).to(memory_format=torch.channels_last)
        grid = self.stem(pixels)
        rows, columns = grid.shape[1:3]
        patches = (grid + self._learned_positions(rows, columns)).flatten(1, 2)
        x = torch.cat((self.cls.expand(images.shape[0], 1, -1).to(patches.dtype), patches), dim=1)
        return x, self._rotary_positions(rows, columns), (rows, columns)

    def _learned_positions(self, rows: int, columns: int) -> Tensor:
        if (rows, columns) == (self.grid, self.grid):
            return self.positions
        table = self.positions.permute(2, 0, 1)[None].float()
        table = F.interpolate(table, (rows, columns), mode="bicubic", antialias=rows < self.grid, align_corners=False)
        return table[0].permute(1, 2, 0).to(self.positions.dtype)

    def _rotary_positions(self, rows: int, columns: int) -> Tensor:
        """(2, 1, 1 + patches): the CLS token is at 0, the centres of patches at 1 to `grid`, whatever their number."""
        device = self.positions.device
        row, column = (
            (torch.arange(number, device=device) + 0.5) * (self.grid / number) + 0.5 for number in (rows, columns)
        )
        patches = torch.stack((row.repeat_interleave(columns), column.repeat(rows)))
        return F.pad(patches, (1, 0))[:, None]
