"""A Thinker in use: what each token of a text costs it."""

import torch

import omni


def test_losses_of_tokens_are_those_of_the_slow_way(trained):
    model = omni.load(trained, device="cpu")
    losses = model.token_losses("the red star")
    tokens = model.encode("the red star")
    assert len(losses) == len(tokens) - 1 == 12
    with torch.no_grad():
        for number, loss in enumerate(losses.tolist()):
            logits = model.thinker(torch.tensor([tokens[: number + 1]])).logits[0, -1]
            assert abs(loss + float(logits.log_softmax(0)[tokens[number + 1]])) < 1e-4
