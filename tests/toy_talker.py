"""A toy Talker and a toy language of codes that it can learn: each character has its own frames."""

import functools
import random

import torch
import torch.nn.functional as F

from omni.batch import IGNORE
from omni.models.talker import Talker

TOY = {"vocab_size": 6, "num_codebooks": 3, "codebook_size": 12, "dim": 32, "num_layers": 2, "num_heads": 2}
TOY |= {"ffn_dim": 64, "text_layers": 1, "text_ffn_dim": 48}


def make(**options):
    torch.manual_seed(0)
    talker = Talker(**{**TOY, **options}).eval()
    for head in talker.depth.heads:
        torch.nn.init.normal_(head.weight, std=0.3)
    torch.nn.init.normal_(talker.advance.weight, std=0.3)
    return talker


def spoken(text):
    """The toy language: character `c` is 1 + c mod 3 frames of codes that depend on it, and two frames of silence."""
    frames = [(0, 0), (0, 1)]
    for unit in text:
        frames += [(unit, step) for step in range(1 + unit % 3)]
    frames += [(0, 2), (0, 3)]
    codes = [[2 * unit + step % 2, (unit + 5 * step) % 12, (7 * unit + step) % 12] for unit, step in frames]
    advances = [0] * len(codes)
    end = 1
    for unit in text:
        advances[end] = 1
        end += 1 + unit % 3
    advances[end], advances[-1] = 1, 1
    return torch.tensor(codes), torch.tensor(advances)


def batch_of(texts):
    codes, advances = zip(*map(spoken, texts), strict=True)
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "text": pad([torch.tensor(text, dtype=torch.long) for text in texts], batch_first=True),
        "text_lengths": torch.tensor([len(text) for text in texts]),
        "codes": pad(list(codes), batch_first=True, padding_value=IGNORE),
        "advances": pad(list(advances), batch_first=True, padding_value=IGNORE),
    }


def random_text(rng):
    return [rng.randint(1, 5) for _ in range(rng.randint(1, 7))]


def loss_of(talker, batch):
    """The loss in nats per frame."""
    output = talker(**batch)
    codes = F.cross_entropy(output.code_logits.flatten(0, 2), batch["codes"].flatten(), reduction="sum")
    pace = F.cross_entropy(output.advance_logits.flatten(0, 1), batch["advances"].flatten(), reduction="sum")
    return (codes + pace) / (batch["advances"] != IGNORE).sum()


@functools.cache
@torch.enable_grad()
def learned():
    """A Talker trained on the toy language, and unseen texts."""
    torch.set_num_threads(1)
    talker, rng = make().train(), random.Random(0)
    optimizer = torch.optim.AdamW(talker.parameters(), 8e-3, betas=(0.9, 0.98), weight_decay=0.0)
    steps = 120
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 20) * (1 - step / steps))
    for _ in range(steps):
        loss = loss_of(talker, batch_of([random_text(rng) for _ in range(16)]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(talker.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return talker.eval(), [random_text(rng) for _ in range(30)]
