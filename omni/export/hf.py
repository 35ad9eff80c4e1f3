"""`omni export --to hf`: the Thinker as a folder that stock `transformers` loads, compared with omni after loading."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from omni.checkpoints.checkpoint import Checkpoint
from omni.decoding.sampling import Sampling, generate
from omni.errors import UserError, install_hint
from omni.export.hf_tokenizer import fast_tokenizer
from omni.models.interfaces import LanguageModel
from omni.models.pretrained.qwen3 import DOUBLED, to_qwen3
from omni.text.chat_template import Template, encode_chat, stop_token
from omni.text.tokenizer import BOS, PAD, SPECIALS, SentencePieceTokenizer, Tokenizer

TOLERANCE = 1e-4  # largest difference of a logit, in fp32
CONTEXT = 2048  # tokens, where the checkpoint has no `context`: rotary positions have no limit of their own
_ROW, _NEW = 128, 32  # tokens of a compared row, and of a continuation
_CONTINUED = 8  # rows that are continued greedily
# Texts that tokenizers often disagree on.
_TEXTS = ("", " ", "  two  spaces ", "\ttab\r\nline\n\n", "naïve ﬁ Å A\u030a 你好 😀 ", "a▁b", "0123", "<|bos|><0x41>")


class Rows(NamedTuple):
    """Texts that the export is compared on.

    Attributes:
        texts: Not empty.
        source: Where they come from.
    """

    texts: Sequence[str]
    source: str


def export_hf(checkpoint: Checkpoint, folder: Path, rows: Rows) -> dict[str, Any]:
    """Writes the Thinker of a checkpoint and its tokenizer into a folder, and compares it with omni's.

    Args:
        checkpoint: Any checkpoint that holds a Thinker.
        folder: An empty folder.
        rows: What it is compared on.

    Returns:
        The manifest's entries `parts` and `parity`.

    Raises:
        UserError: If the Thinker cannot be represented, the folder differs from it, or transformers is not installed.
    """
    transformers = _transformers()
    thinker, tokenizer = checkpoint.part("thinker", LanguageModel).float(), checkpoint.tokenizer
    try:
        model = to_qwen3(thinker)
    except UserError as error:
        raise UserError(f"{checkpoint}: {error}", page="howto/export.md") from None
    template = _template(checkpoint)
    context = int(checkpoint.content.get("context") or CONTEXT)
    stop = stop_token(tokenizer, template or "plain")
    ids = {"bos_token_id": BOS, "eos_token_id": stop, "pad_token_id": PAD}
    config = transformers.AutoConfig.for_model(**model.config, max_position_embeddings=context, dtype="float32", **ids)
    there = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    there.load_state_dict(model.weights)
    unused = list(range(tokenizer.vocab_size, thinker.vocab_size)) or None  # omni never chooses them
    there.generation_config = transformers.GenerationConfig(**ids, suppress_tokens=unused)
    there.save_pretrained(folder)
    fast_tokenizer(tokenizer, template=template, context=context).save_pretrained(folder)
    if isinstance(tokenizer, SentencePieceTokenizer):
        tokenizer.save(folder / "tokenizer.model")  # for converters, such as llama.cpp's
    part = {
        "architecture": type(there).__name__,
        "dtype": "float32",
        "parameters": sum(parameter.numel() for parameter in there.parameters()),
        "weights": {name: list(weight.shape) for name, weight in there.state_dict().items()},
        "config": model.config,
        "doubled_heads": bool(model.config.get(DOUBLED)),
        "template": template,
        "context": checkpoint.content.get("context"),
    }
    return {"parts": {"thinker": part}, "parity": check(folder, thinker, tokenizer, template, rows)}


def check(
    folder: Path, thinker: LanguageModel, tokenizer: Tokenizer, template: Template | None, rows: Rows
) -> dict[str, Any]:
    """Loads a folder by `transformers` and compares ids, logits and greedy continuations with omni's.

    Args:
        folder: As `export_hf` writes it.
        thinker: The Thinker in fp32 on the CPU, in eval mode.
        tokenizer: Its tokenizer.
        template: The chat template it was trained with.
        rows: What is compared.

    Returns:
        The manifest's entry `parity`.

    Raises:
        UserError: If anything differs.
    """
    transformers = _transformers()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    own = transformers.AutoTokenizer.from_pretrained(folder)
    prompts = _check_tokens(own, tokenizer, template, rows.texts)
    worst, compared = 0.0, 0
    with torch.inference_mode():
        for text in rows.texts:
            tokens = torch.tensor([[BOS, *tokenizer.encode(text)][:_ROW]])
            expected = thinker.logits(thinker.encode(tokens).hidden)
            worst = max(worst, float((model(tokens).logits - expected).abs().max()))
            compared += tokens.numel()
    if not worst <= TOLERANCE:
        raise UserError(
            f"the exported Thinker differs from omni's: a logit by {worst:.2g} (at most {TOLERANCE:g}) on "
            f"{len(rows.texts)} rows of {rows.source}; nothing was written"
        )
    same = [_continuations_equal(model, thinker, tokenizer, template, prompt) for prompt in prompts[:_CONTINUED]]
    if not all(same):
        raise UserError(
            f"the exported Thinker continues row {same.index(False) + 1} of {rows.source} with other tokens than "
            "omni's; nothing was written"
        )
    return {
        "against": f"transformers {transformers.__version__}, torch {torch.__version__}, fp32, CPU",
        "rows": {"source": rows.source, "count": len(rows.texts), "tokens": compared},
        "max_abs_logit_difference": worst,
        "tolerance": TOLERANCE,
        "greedy_continuations": {"count": len(same), "equal": sum(same), "new_tokens": _NEW},
        "token_ids_equal": True,
    }


def random_rows(tokenizer: Tokenizer, *, count: int = 16, length: int = 64) -> Rows:
    """Texts of random tokens, where there is no data."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(SPECIALS), tokenizer.vocab_size, (count, length), generator=generator).tolist()
    return Rows([tokenizer.decode(row) for row in ids], "random tokens")


def _check_tokens(own: Any, tokenizer: Tokenizer, template: Template | None, texts: Sequence[str]) -> list[list[int]]:
    """Compares ids and texts; returns the prompt of each text: a question, or the first third of a document."""
    prompts = []
    for text in (*texts, *_TEXTS):
        expected = tokenizer.encode(text)
        found = own(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if found != expected or own.decode(found) != text:
            raise UserError(f"the exported tokenizer differs from omni's on {text[:40]!r}; nothing was written")
        prompts.append([BOS, *expected[: min(len(expected) // 3, _ROW)]])
        if template != "chat" or not text or "<|" in text:
            continue
        messages = [{"role": "user", "content": text}]
        prompt = encode_chat(tokenizer, messages, add_generation_prompt=True).tokens
        found = own.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
        if found != prompt:
            raise UserError(f"the exported chat template differs from omni's on {text[:40]!r}; nothing was written")
        prompts[-1] = prompt[-_ROW:]
    return prompts[: len(texts)]


def _continuations_equal(
    model: Any, thinker: LanguageModel, tokenizer: Tokenizer, template: Template | None, prompt: list[int]
) -> bool:
    steps = generate(
        thinker,
        [prompt],
        max_tokens=_NEW,
        stop=stop_token(tokenizer, template or "plain"),
        vocab_size=tokenizer.vocab_size,
        sampling=Sampling(temperature=0),
    )
    expected = [token for step in steps for token in step]
    tokens = torch.tensor([prompt])
    whole = model.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=_NEW)
    return whole[0, len(prompt) :].tolist() == expected


def _template(checkpoint: Checkpoint) -> Template | None:
    """The chat template that it was trained with; None for a model that continues texts."""
    return checkpoint.content.get("template") or ("chat" if checkpoint.lineage["stage"] == "OmniTuning" else None)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"export to hf needs transformers: {install_hint('hf')}") from error
    return transformers
