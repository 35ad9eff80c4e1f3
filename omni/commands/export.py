"""`omni export`: a trained model as a folder that runs without omni, compared with omni before it is kept."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm

from omni.checkpoints.checkpoint import Checkpoint
from omni.curves.event_files import read_config
from omni.data.text.held_out import held_out_texts, texts_of_file
from omni.errors import UserError
from omni.export.folder import new_export, write_manifest
from omni.export.hf import Rows, export_hf, random_rows

if TYPE_CHECKING:
    from omni.export.parts.part import OnnxPart, RowKind
    from omni.export.parts.part import Rows as PartRows
    from omni.export.whole import Member

_ROWS = 32
_SPOKEN, _PICTURED = 200, 500  # rows with references: of 200 utterances, 0.3 points of WER are about 4 words


def export(
    checkpoint: str,
    *,
    to: Literal["hf", "onnx", "torch", "web"],
    out: Path | None = None,
    rows: Path | None = None,
    voice: str | None = None,
    vocoder: str | None = None,
    recognizer: str | None = None,
    int8: bool = False,
    opset: int | None = None,
    compiled: bool = False,
    ort_web: Path | None = None,
) -> None:
    """Export a trained model to a folder that runs without omni.

    `hf` writes the Thinker of any checkpoint as a Qwen3 or Qwen3-MoE model with its tokenizer, which
    `AutoModelForCausalLM` and `AutoTokenizer` of transformers load. `onnx` writes graphs of the parts that the
    checkpoint holds: recogniser, image classifier, Thinker; codec, vocoder and Talker as streams; encoders and
    projectors of a model that reads images and audio; with `--voice`, `--vocoder` and `--recognizer` a whole model of
    several checkpoints. `omni transcribe`, `omni classify` and `omni generate` take the folder as their checkpoint and
    run it without PyTorch. `web` writes a static page on which a checkpoint of stage E, and its voice, run in a
    browser. `torch` writes recogniser, image classifier and Thinker as archives for `torch.export.load`, and with
    `--compiled` as packages for `torch._inductor.aoti_load_package`. The folder is compared with omni on real rows, and
    is kept only if both agree; `manifest.json` has the result.

    Example:
        omni export lightning_logs/audio/best.ckpt --to onnx --int8 --out hearing

    Args:
        checkpoint: A checkpoint, such as lightning_logs/thinker/best.ckpt.
        to: `hf`, `onnx`, `torch` or `web`.
        out: The folder to write; by default lightning_logs/export/STAGE-TO. An earlier export in it is replaced.
        rows: Rows to compare on. Texts: a .txt file with one a line, or a .jsonl file with `text` or `messages`. Speech
            and images: a manifest or a folder, as in the data of the stage. By default the validation data of the
            checkpoint's run; where that is missing, random input.
        voice: Of `onnx` and `web`: a Talker's checkpoint, whose Talker and codec are exported, too.
        vocoder: Of `onnx` and `web`: a vocoder's checkpoint.
        recognizer: Of `onnx` and `web`: a recogniser's checkpoint. With `--int8` it transcribes what the voice says:
            Talker and codec are chosen by that word error rate. A page does not contain it.
        int8: Of `onnx` and `web`: also write graphs with int8 weights. `onnx` chooses by time and quality on this
            machine, `web` by size and quality.
        opset: Of `onnx` and `web`: version of ONNX's operators; by default 20.
        compiled: Of `torch`: also compile each archive for this CPU by AOTInductor, which takes minutes and a C++
            compiler.
        ort_web: Of `web`: the folder dist of onnxruntime-web; by default npm fetches it once.
    """
    _refuse_options(
        to,
        {
            "--voice": (voice, "onnx", "web"),
            "--vocoder": (vocoder, "onnx", "web"),
            "--recognizer": (recognizer, "onnx", "web"),
            "--int8": (int8, "onnx", "web"),
            "--opset": (opset is not None, "onnx", "web"),
            "--compiled": (compiled, "torch"),
            "--ort_web": (ort_web, "web"),
        },
    )
    if to == "web" and recognizer and not int8:
        raise UserError("--recognizer judges the voice of a page in int8: give --int8, too, or leave it out")
    opened = Checkpoint(Path(checkpoint).expanduser())
    out = (out or Path("lightning_logs/export") / f"{opened.lineage['stage']}-{to}").expanduser()
    others = {"voice": voice, "vocoder": vocoder, "recognizer": recognizer}
    if to == "onnx":
        _to_onnx(opened, others, out, rows, int8=int8, opset=opset)
    elif to == "web":
        _to_web(opened, others, out, rows, int8=int8, opset=opset, ort_web=ort_web)
    elif to == "torch":
        _to_torch(opened, out, rows, compiled=compiled)
    else:
        _to_hf(opened, out, rows)


def _refuse_options(to: str, options: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuses options that are given for a target that has none of the kind: by name the value and its targets."""
    for name, (value, *targets) in options.items():
        if value and to not in targets:
            because = "; transformers quantises on load" if (name, to) == ("--int8", "hf") else ""
            raise UserError(f"{name} is of --to {' and '.join(targets)}: leave it out of --to {to}{because}")


def _to_hf(opened: Checkpoint, out: Path, rows: Path | None) -> None:
    if "thinker" not in opened:
        held = ", ".join(sorted(opened.content["parts"])) or "none"
        raise UserError(f"{opened} holds no Thinker, which --to hf exports; its parts: {held}", page="howto/export.md")
    compared = _rows(opened, rows)
    with new_export(out) as folder:
        entries = export_hf(opened, folder, compared)
        write_manifest(folder, opened, target="hf", **entries)
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


def _to_onnx(
    opened: Checkpoint, others: Mapping[str, str | None], out: Path, rows: Path | None, *, int8: bool, opset: int | None
) -> None:
    from omni.export import onnx_folder, whole  # late: they need the extra `export`

    checked = onnx_folder.check_opset(onnx_folder.OPSET if opset is None else opset)
    members = whole.gather(opened, others)
    with new_export(out) as folder:
        entries = _export_members(members, folder, rows, opset=checked, int8=int8)
        write_manifest(folder, opened, target="onnx", **entries)
    _print_parts(out, entries)


def _to_web(
    opened: Checkpoint,
    others: Mapping[str, str | None],
    out: Path,
    rows: Path | None,
    *,
    int8: bool,
    opset: int | None,
    ort_web: Path | None,
) -> None:
    from omni.export import onnx_folder, web, whole  # late, as above

    checked = onnx_folder.check_opset(onnx_folder.OPSET if opset is None else opset)
    members = whole.gather(opened, others)
    state = web.page_state(members)
    runtime = web.find_runtime(None if ort_web is None else ort_web.expanduser())
    with new_export(out) as folder:
        with tempfile.TemporaryDirectory() as made:
            shown, place = web.on_page(members), Path(made)
            entries = _export_members(shown, place, rows, opset=checked, int8=int8, smaller=True, judges=members)
            web.write_page(folder, Path(made), entries["parts"], runtime)
        chosen = {name: web.chosen_alone(part) for name, part in entries["parts"].items()}
        write_manifest(folder, opened, target="web", **{**entries, "parts": chosen, "web": state})
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    _print_parts(out, entries)
    print(f"{size / 1e6:.1f} MB; to see the page here: python -m http.server --directory {out}")


def _export_members(
    members: Sequence["Member"],
    folder: Path,
    rows: Path | None,
    *,
    opset: int,
    int8: bool,
    smaller: bool = False,
    judges: Sequence["Member"] = (),
) -> dict[str, Any]:
    """Writes the graphs of a model's checkpoints; the entries `parts`, `parity` and `members` of its manifest.

    `judges` are members with parts that are not exported, but that speech in int8 is judged by.
    """
    from omni.export import onnx_folder
    from omni.export.round_trip import choose_by_round_trip

    _check_rows(rows, {part.rows for member in members for part in member.parts})
    compared = [_compared_rows(member.checkpoint, member.parts, rows) for member in members]
    entries: dict[str, Any] = {"parts": {}, "parity": {}, "members": {}}
    with tqdm(desc="export", bar_format="{desc}", leave=False, disable=None) as bar:
        for member, given in zip(members, compared, strict=True):
            found = onnx_folder.export_onnx(
                member.checkpoint,
                member.parts,
                folder,
                given,
                opset=opset,
                int8=int8,
                smaller=smaller,
                progress=bar.set_description_str,
            )
            entries["parts"] |= found["parts"]
            entries["parity"] |= found["parity"]
            names = [part.name for part in member.parts]
            entries["members"][member.role] = {"parts": names, "lineage": member.checkpoint.lineage}
        if int8:
            choose_by_round_trip(
                judges or members,
                entries["parts"],
                folder,
                _sentences(members, compared),
                smaller=smaller,
                progress=bar.set_description_str,
            )
    return entries


def _sentences(members: Sequence["Member"], compared: Sequence[Mapping["RowKind", "PartRows"]]) -> Sequence[Any]:
    """The rows of the checkpoint that speaks."""
    for member, given in zip(members, compared, strict=True):
        if any(part.name == "talker" for part in member.parts):
            return given["speech"].items
    return ()


def _to_torch(opened: Checkpoint, out: Path, rows: Path | None, *, compiled: bool) -> None:
    from omni.export import onnx_folder, torch_folder  # late, as above

    if compiled:
        torch_folder.check_compiler()
    parts = onnx_folder.find_parts(opened, "torch")
    _check_rows(rows, {part.rows for part in parts})
    compared = _compared_rows(opened, parts, rows)
    with new_export(out) as folder, tqdm(desc="export", bar_format="{desc}", leave=False, disable=None) as bar:
        entries = torch_folder.export_torch(
            opened, folder, compared, compiled=compiled, progress=bar.set_description_str
        )
        write_manifest(folder, opened, target="torch", **entries)
    print(f"{out}:")
    for name, part in entries["parts"].items():
        print(f"  {name}: {part['parameters']:,} parameters")
        _print_parity(entries["parity"][name])
        times = part["milliseconds"]
        print("    " + ", ".join(f"{way} {value:.2f} ms a row" for way, value in times.items()))


def _check_rows(rows: Path | None, kinds: set["RowKind"]) -> None:
    """Refuses `--rows` for parts that are compared on several kinds of rows."""
    if rows is not None and len(kinds) > 1 and kinds != {"text", "conversations"}:
        raise UserError(f"--rows is of one kind, and these parts need {' and '.join(sorted(kinds))}: leave it out")


def _compared_rows(
    opened: Checkpoint, parts: Sequence[type["OnnxPart"]], path: Path | None
) -> dict["RowKind", "PartRows"]:
    """Rows of each kind that parts of a checkpoint are compared on."""
    found: dict[RowKind, PartRows] = {}
    for part in parts:
        if part.rows not in found:
            found[part.rows] = _onnx_rows(opened, part.rows, path)
    return found


def _onnx_rows(opened: Checkpoint, kind: str, path: Path | None) -> Any:
    """Rows of a kind: of a file, or those that the checkpoint's run held out."""
    from omni.data.conversations.held_out import conversations_of, held_out_conversations
    from omni.data.images.held_out import held_out_images, images_of
    from omni.data.speech.held_out import held_out_utterances, utterances_of
    from omni.evaluation.accuracy import question_of
    from omni.export.parts.part import Asked, Pictured, Spoken
    from omni.export.parts.part import Rows as AnyRows

    config = read_config(opened.path.parent)
    name = None if path is None else str(path.expanduser())
    if kind == "speech":
        units = opened.ctc_vocabulary if "talker" in opened else None
        found = (
            held_out_utterances(config, _SPOKEN, units=units)
            if name is None
            else (utterances_of([name], _SPOKEN), name)
        )
        rows = AnyRows([Spoken(*row) for row in found[0]], found[1])
    elif kind == "images":
        found = held_out_images(config, _PICTURED) if name is None else (images_of(name, _PICTURED), name)
        rows = AnyRows([Pictured(*row) for row in found[0]], found[1])
    elif kind == "conversations":
        asked = held_out_conversations(config, _ROWS) if name is None else (conversations_of([name], _ROWS), name)
        rows = AnyRows([Asked(*question_of(row)) for row in asked[0]], asked[1])
    else:
        rows = AnyRows(*held_out_texts(config, _ROWS)) if path is None else AnyRows(*_rows(opened, path))
    if name is not None and not rows.items:
        raise UserError(f"{path} has no rows of {kind}: give others as --rows")
    return rows


def _print_parts(out: Path, entries: Mapping[str, Any]) -> None:
    print(f"{out}:")
    for name, part in entries["parts"].items():
        _print_part(name, part, entries["parity"][name])


def _print_part(name: str, part: Mapping[str, Any], parity: Mapping[str, Any]) -> None:
    print(f"  {name}: {part['parameters']:,} parameters, opset {part['opset']}")
    _print_parity(parity)
    for variant, figures in part["variants"].items():
        if "milliseconds" in figures:
            quality = figures["quality"]
            score = "" if quality is None else f", {quality['metric']} {quality['value']:.4f}"
            print(f"    {variant}: {figures['bytes'] / 1e6:.2f} MB, {figures['milliseconds']:.2f} ms a row{score}")
    if "reason" in part:
        print(f"    chosen: {part['chosen']} ({part['reason']})")


def _print_parity(parity: Mapping[str, Any]) -> None:
    results = parity["results"]
    print(
        f"    compared with PyTorch on {parity['rows']['count']} rows ({parity['rows']['source']}): outputs within "
        f"{parity['max_abs_difference']:.1e}, {results['equal']} of {results['count']} results equal"
    )
