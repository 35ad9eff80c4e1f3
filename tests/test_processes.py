"""Processes of tests can train, whatever ran in the test process before."""

import torch
from processes import start


class Nested(torch.autograd.Function):
    """A backward pass inside of a backward pass, and so on; autograd starts a thread at a depth of 60."""

    @staticmethod
    def forward(ctx, x, depth):
        ctx.depth = depth
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if ctx.depth:
            with torch.enable_grad():
                train(ctx.depth - 1)
        return gradient, None


def train(depth=0):
    Nested.apply(torch.ones(1, requires_grad=True), depth).sum().backward()


def test_a_process_trains_after_autograd_has_started_threads_here(tmp_path):
    """PyTorch refuses a backward pass in a fork of this process from here on."""
    train(depth=70)
    process = start(train, output=tmp_path / "output.txt")
    process.join(120)
    assert process.exitcode == 0, (tmp_path / "output.txt").read_text(encoding="utf-8")
