"""`omni export`: a trained model as a folder that runs without omni, compared with omni before it is kept."""

from pathlib import Path
from typing import Literal

from omni.checkpoints.checkpoint import Checkpoint
from omni.curves.event_files import read_config
from omni.data.text.held_out import held_out_texts, texts_of_file
from omni.errors import UserError
from omni.export.folder import new_export, write_manifest
from omni.export.hf import Rows, export_hf, random_rows

_ROWS = 32


def export(
    checkpoint: str,
    *,
    to: Literal["hf", "onnx", "torch"],
    out: Path | None = None,
    rows: Path | None = None,
    int8: bool = False,
) -> None:
    """Export a trained model to a folder that runs without omni.

    `hf` writes the Thinker of any checkpoint as a Qwen3 or Qwen3-MoE model with its tokenizer, which
    `AutoModelForCausalLM` and `AutoTokenizer` of transformers load. The folder is loaded back and compared with omni on
    real rows: token ids, logits and greedy continuations. It is kept only if all are equal; `manifest.json` has the
    result.

    Args:
        checkpoint: A checkpoint that holds a Thinker, such as lightning_logs/thinker/best.ckpt.
        to: `hf`.
        out: The folder to write; by default lightning_logs/export/STAGE-hf. An earlier export in it is replaced.
        rows: Texts to compare on: a .txt file with one a line, or a .jsonl file with `text` or `messages`. By default
            the validation data of the checkpoint's run; where that is missing, random tokens.
        int8: For targets that quantise.
    """
    if to != "hf":
        raise UserError(f"--to {to} is not available yet: --to hf exports the Thinker")
    if int8:
        raise UserError("--int8 is not available for --to hf: its weights are fp32, and transformers quantises on load")
    opened = Checkpoint(Path(checkpoint).expanduser())
    if "thinker" not in opened:
        held = ", ".join(sorted(opened.content["parts"])) or "none"
        raise UserError(f"{checkpoint} holds no Thinker, which --to hf exports; its parts: {held}")
    out = (out or Path("lightning_logs/export") / f"{opened.lineage['stage']}-{to}").expanduser()
    compared = _rows(opened, rows)
    with new_export(out) as folder:
        entries = export_hf(opened, folder, compared)
        write_manifest(folder, opened, target=to, **entries)
    part, parity = entries["parts"]["thinker"], entries["parity"]
    print(f"{out}: {part['architecture']}, {part['parameters']:,} parameters, fp32")
    worst, continued = parity["max_abs_logit_difference"], parity["greedy_continuations"]["equal"]
    print(
        f"compared with omni on {parity['rows']['count']} rows ({compared.source}): token ids equal, logits within "
        f"{worst:.1e}, {continued} greedy continuations equal"
    )
    if part["doubled_heads"]:
        print(
            "note: heads have scales of their own, which Qwen3 has not: they are exported at twice their size, with "
            "equal results and twice the KV cache"
        )


def _rows(checkpoint: Checkpoint, path: Path | None) -> Rows:
    if path is not None:
        texts = texts_of_file(path.expanduser(), _ROWS)
        if not texts:
            raise UserError(f"{path} has no text: give a file with a text a line")
        return Rows(texts, str(path))
    texts, source = held_out_texts(read_config(checkpoint.path.parent), _ROWS)
    if texts:
        return Rows(texts, source)
    random = random_rows(checkpoint.tokenizer)
    return Rows(random.texts, f"{random.source}: {source}")
