"""Engines without omni and PyTorch continue texts as omni does, from `omni export --to hf` (docs/export.md)."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_export import WORDS, pieces, save, toy_thinker

from omni.cli import main
from omni.decoding.sampling import Sampling, generate
from omni.text.chat_template import encode_chat
from omni.text.tokenizer import BOS

pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]  # the engines' own

KINDS: dict[str, dict[str, Any]] = {
    "heads of twice the size": {},
    "untied": {"tied": False, "head_dim": 16, "shared_qk_scales": True},
    "experts": {"num_experts": 4, "experts_per_token": 2, "shared_qk_scales": True},
}
NEW = 40
TEXTS = [*WORDS[:4], " two  spaces ", "line\nline", "naïve 你好 😀", "<|bos|><0x41>"]
Continue = Callable[[list[int]], list[int]]


def exported(**options: Any) -> Continue:
    """Exports a toy Thinker into `out`, and returns its greedy continuations in omni."""
    thinker, tokenizer = toy_thinker(**options), pieces()
    with torch.no_grad():
        # omni never chooses these ids, and training makes them unlikely.
        thinker.head.weight[tokenizer.vocab_size :] = 0
    Path("rows.txt").write_text("\n".join(WORDS[:4]), encoding="utf-8")
    saved = save(Path("a.ckpt"), thinker, tokenizer, template="chat")
    main(["export", saved, "--to", "hf", "--out", "out", "--rows", "rows.txt"])

    def greedy(prompt: list[int]) -> list[int]:
        options = {"vocab_size": tokenizer.vocab_size, "sampling": Sampling(temperature=0)}
        return [token for step in generate(thinker, [prompt], max_tokens=NEW, stop=-1, **options) for token in step]

    return greedy


def documented(first: str) -> str:
    """The code in docs/export.md that starts with a line."""
    text = (Path(__file__).parents[2] / "docs/export.md").read_text(encoding="utf-8")
    block = re.search(rf"^```python\n({first}\n.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert block is not None
    return block[1]


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp(kind: str, workplace: Path):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: see docs/export.md")
    source = Path(os.environ.get("LLAMA_CPP", "none"))
    if not (source / "convert_hf_to_gguf.py").is_file():
        pytest.skip("LLAMA_CPP does not name a folder of llama.cpp with its converter: see docs/export.md")
    Path("llama.cpp").symlink_to(source)
    Path("to_gguf.py").write_text(documented("import runpy"), encoding="utf-8")
    expected = exported(**KINDS[kind])
    run("to_gguf.py", "out", "--outtype", "f32", "--outfile", "a.gguf")
    model = llama_cpp.Llama(
        "a.gguf",
        n_ctx=256,
        verbose=False,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
    )
    for text in TEXTS:
        prompt = model.tokenize(text.encode(), special=False)
        assert prompt == [BOS, *pieces().encode(text)], repr(text)
        model.reset()
        steps = model.generate(prompt, temp=0, repeat_penalty=1.0)
        assert [token for _, token in zip(range(NEW), steps, strict=False)] == expected(prompt)
    messages = [{"role": "system", "content": "the mat"}, {"role": "user", "content": "the  cat\nsat, naïve 1"}]
    prompts, tokenize = [], model.tokenize
    model.tokenize = lambda *args, **options: prompts.append(tokenize(*args, **options)) or prompts[-1]
    model.create_chat_completion(messages, max_tokens=1)
    assert prompts == [encode_chat(pieces(), messages, add_generation_prompt=True).tokens]
    model.close()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "experts"])
def test_onnxruntime_genai(kind: str, workplace: Path):
    genai = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed: see docs/export.md")
    expected = exported(**KINDS[kind])
    run("-m", "onnxruntime_genai.models.builder", "-i", "out", "-o", "genai", "-p", "fp32", "-e", "cpu", "-c", "cache")
    model = genai.Model("genai")
    for text in TEXTS:
        prompt = [BOS, *pieces().encode(text)]
        options = genai.GeneratorParams(model)
        options.set_search_options(max_length=len(prompt) + NEW, min_length=len(prompt) + NEW, do_sample=False)
        generator = genai.Generator(model, options)
        generator.append_tokens(np.array([prompt], dtype=np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        assert list(generator.get_sequence(0))[len(prompt) :] == expected(prompt)
