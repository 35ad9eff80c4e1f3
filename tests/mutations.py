"""Mutations of valid files for fuzzing: of bytes, of trees of plain data, and of texts that hold such trees."""

import copy
import json
import struct
from random import Random
from typing import Any

import torch
import yaml

# Numbers at which sizes and offsets of binary formats overflow, as bytes.
_EDGES = [struct.pack("<H", value) for value in (0, 0xFFFF)]
_EDGES += [struct.pack(f"{order}I", value) for order in "<>" for value in (0, 1, 100_000, 2**31 - 1, 2**32 - 1)]
_EDGES += [struct.pack(f"{order}Q", value) for order in "<>" for value in (0, 2**40, 2**63 - 1, 2**64 - 1)]

# Values that a key is not meant to have; trees are made anew for each use.
_ODD: list[Any] = [None, True, 0, -1, 1, 1.5, -1e308, float("inf"), float("nan"), 10**30, 2**31, 2**63, 100_000]
_ODD += ["", "\0", "x" * 10_000, "../../outside", "/nowhere/at/all", "~nobody", "a\nb\r\nc", "\ud800", "éß\u200b\u202e"]
_ODD += ["1e3", "no", "{}", [], {}, [None], [[]], {"text": "x"}]
_ODD += [{"class_path": "os.system", "init_args": {"command": "touch ../outside"}}]
_ODD += [{"class_path": "omni.models.thinker.Thinker", "init_args": {}}]


def _odd(rng: Random) -> Any:
    return nested(60) if rng.random() < 0.03 else copy.deepcopy(rng.choice(_ODD))


def nested(depth: int) -> list[Any]:
    """A list in a list in a list ..."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def mutate_bytes(rng: Random, content: bytes) -> bytes:
    """Changes a few places: bits, numbers, slices."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        at = _place(rng, len(data))
        length = rng.choice([1, 2, 4, 16, 256])
        match rng.randrange(8):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                edge = rng.choice(_EDGES)
                data[at : at + len(edge)] = edge
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = rng.randbytes(length)
            case 4:
                data[at : at + length] = rng.randbytes(length)
            case 5:
                data[at:at] = data[at : at + length] * rng.choice([1, 2, 50])
            case 6 if rng.random() < 0.3:
                del data[at:]
            case _:
                data[at : at + length] = bytes([rng.choice([0, 0xFF, 0x7F, 0x80])]) * length
    return bytes(data)


def _place(rng: Random, size: int) -> int:
    """Headers stand at the start: a third of the places is there."""
    return rng.randrange(min(size, 128) + 1) if rng.random() < 0.35 else rng.randrange(size + 1)


def mutate_tree(rng: Random, tree: Any) -> Any:
    """Changes one to three nodes of plain data, which may hold tensors."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        holders = list(_nodes(tree))
        if not holders:
            return _odd(rng)
        holder, key = rng.choice(holders)
        match rng.randrange(6):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[rng.choice(["", "x", 7, f"{key}_"])] = holder.pop(key)
            case 2:
                other, name = rng.choice(holders)
                if name in (other if isinstance(other, dict) else range(len(other))):
                    holder[key] = copy.deepcopy(other[name])
            case 3 if isinstance(holder[key], str) and holder[key]:
                at = rng.randrange(len(holder[key]))
                holder[key] = holder[key][:at] + rng.choice(["", "\0", "/", ".", "\n", "9"]) + holder[key][at + 1 :]
            case 4 if isinstance(holder[key], torch.Tensor):
                holder[key] = _other_tensor(rng, holder[key])
            case _:
                holder[key] = _odd(rng)
    return tree


def _nodes(tree: Any) -> Any:
    """Every place of a tree, as its container and key; few of many alike, such as the weights."""
    items = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    for key, value in items:
        yield tree, key
        yield from _nodes(value)


def _other_tensor(rng: Random, tensor: torch.Tensor) -> torch.Tensor:
    return rng.choice([
        tensor[..., :0], tensor.flatten(), tensor.double(), tensor.to(torch.int8), torch.full_like(tensor, float("nan"))
        if tensor.is_floating_point() else tensor, tensor[None], torch.zeros(()), tensor.to(torch.complex64),
    ])  # fmt: skip


def mutate_jsonl(rng: Random, content: bytes) -> bytes:
    """Changes the bytes of JSON lines, or the tree of one of them."""
    if rng.random() < 0.4:
        return mutate_bytes(rng, content)
    if rng.random() < 0.03:
        return b'{"text":' * 100_000
    lines = content.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = json.dumps(mutate_tree(rng, json.loads(lines[at]))).encode()
    return b"\n".join(lines) + b"\n"


def mutate_json(rng: Random, content: bytes) -> bytes:
    """Changes the bytes or the tree of a JSON file."""
    if rng.random() < 0.2:
        return mutate_bytes(rng, content)
    if rng.random() < 0.03:
        return b"[" * 100_000
    return json.dumps(mutate_tree(rng, json.loads(content))).encode()


def mutate_yaml(rng: Random, content: bytes) -> bytes:
    """Changes the bytes or the tree of a YAML file, or writes what only YAML has: aliases, tags, many documents."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, content)
    if rng.random() < 0.1:
        line = rng.choice([
            b"x: !!python/object/apply:os.system ['touch ../outside']\n", b"--- \n", b"a: &a [1, *a]\n", b"\t\n",
            b"x: " + b"[" * 5000 + b"\n", b"a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n", b"<<: 3\n", b"? [1]\n: 2\n",
        ])  # fmt: skip
        return content + line if rng.random() < 0.5 else line + content
    return yaml.safe_dump(mutate_tree(rng, yaml.safe_load(content)), sort_keys=False, allow_unicode=True).encode(
        errors="surrogatepass"
    )
