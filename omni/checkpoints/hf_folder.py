"""A Qwen3 folder of `transformers` as the content of a checkpoint with one part, the Thinker: `hf:FOLDER`."""

import json
from pathlib import Path
from typing import Any

import torch

from omni.errors import UserError
from omni.models.pretrained.loading import NO_FOREIGN_CODE, source_errors
from omni.models.pretrained.qwen3 import check_config, from_qwen3
from omni.text.tokenizer import SentencePieceTokenizer, Tokenizer

PREFIX = "hf:"
TOKENIZER = "tokenizer.model"
_SMALL = 1 << 24


def read_hf(folder: Path) -> dict[str, Any]:
    """Reads a folder that `omni export --to hf` wrote, or that `transformers` saved after training such a model.

    Lineage, chat template and context come from its `manifest.json`; the tokenizer from `tokenizer.model`, or from the
    manifest if it is that of bytes.

    Raises:
        UserError: If it is not such a folder, is damaged, has another tokenizer, or transformers is not installed.
    """
    source = str(folder)
    manifest = _manifest(folder)
    with source_errors(source):
        import transformers

        if not folder.is_dir():
            raise UserError(f"{source} is not a folder: give one that `omni export --to hf` wrote")
        config = transformers.AutoConfig.from_pretrained(folder, **NO_FOREIGN_CODE).to_dict()
        check_config(config, source)
        auto: Any = transformers.AutoModelForCausalLM
        _check_size(folder, auto)
        options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True, **NO_FOREIGN_CODE}
        model, found = auto.from_pretrained(folder, **options)
        if missing := sorted(found["missing_keys"]):
            raise UserError(f"{source}: {len(missing)} weights are missing, such as {missing[0]}: it is not whole")
    thinker = from_qwen3(config, model.state_dict(), source)
    tokenizer = _tokenizer(folder, manifest)
    if tokenizer.vocab_size > thinker.vocab_size:
        raise UserError(
            f"{source}: its tokenizer has {tokenizer.vocab_size} tokens and its model {thinker.vocab_size}: they do "
            "not belong together"
        )
    lineage = {"stage": "transformers", "step": 0, "config": "", "data": "", "ancestors": {}}
    part = manifest.get("parts", {}).get("thinker", {})
    return {
        "state_dict": {f"thinker.{name}": weight for name, weight in thinker.state_dict().items()},
        "parts": {"thinker": thinker.recipe},
        "tokenizer": tokenizer.state(),
        "lineage": {**lineage, **manifest.get("lineage", {}), "tokenizer": tokenizer.fingerprint},
        **{key: part[key] for key in ("template", "context") if part.get(key)},
    }


def _check_size(folder: Path, auto: Any) -> None:
    """Refuses a config.json of a much larger model than the weights', before memory is taken for it."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, **NO_FOREIGN_CODE)
    with torch.device("meta"):
        needed = sum(weight.numel() for weight in auto.from_config(config, **NO_FOREIGN_CODE).parameters())
    there = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if needed > there + _SMALL:  # bytes: a parameter has one at least
        raise UserError(f"{folder}: config.json is of {needed:,} parameters, its weights are {there:,} bytes")


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: the export was changed or cut; export again") from error
    sections = [found]
    if isinstance(found, dict):
        sections += [found.get(name, {}) for name in ("tokenizer", "lineage", "parts")]
        if isinstance(sections[-1], dict):
            sections.append(sections[-1].get("thinker", {}))
    if not all(isinstance(each, dict) for each in sections):
        raise UserError(f"{path} is not the manifest of an export: it was changed or cut; export again")
    return found


def _tokenizer(folder: Path, manifest: dict[str, Any]) -> Tokenizer:
    recorded = manifest.get("tokenizer", {})
    if recorded.get("kind") == "bytes":
        return Tokenizer.from_state({"kind": "bytes"})
    path = folder / TOKENIZER
    if not path.is_file():
        raise UserError(f"{path} is missing: copy it from the folder that `omni export --to hf` wrote")
    tokenizer = SentencePieceTokenizer.from_file(path)
    if recorded and recorded.get("fingerprint") != tokenizer.fingerprint:
        raise UserError(f"{path} is another tokenizer than that of the export: copy the one that was exported")
    return tokenizer
