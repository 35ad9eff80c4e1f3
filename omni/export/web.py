"""A static page that runs exported graphs in a browser, with onnxruntime-web and without a server of omni's."""

import gzip
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from omni.errors import UserError
from omni.export.whole import Member
from omni.text.ctc_vocabulary import CharacterVocabulary, CTCVocabulary
from omni.text.tokenizer import FIRST_PIECE, ByteTokenizer, SentencePieceTokenizer, Tokenizer

ORT_WEB = "1.30.0"  # of onnxruntime-web, the last that the page was tested with
ANSWERS = ("omni_thinker", "image_embeddings", "audio_embeddings")
SPEAKS = ("talker_text", "talker", "codec_decoder", "vocoder")
_PAGE = Path(__file__).with_name("web_page")
_SCRIPT, _WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"


def on_page(members: Sequence[Member]) -> list[Member]:
    """The checkpoints with those of their parts that the page runs."""
    names = {*ANSWERS, *SPEAKS}
    kept = [member._replace(parts=[part for part in member.parts if part.name in names]) for member in members]
    return [member for member in kept if member.parts]


def page_state(members: Sequence[Member]) -> dict[str, Any]:
    """What the page knows besides the graphs: the tokenizer, and the characters of a Talker.

    Args:
        members: The checkpoints, as of `omni.export.whole.gather`.

    Raises:
        UserError: If the page cannot use them.
    """
    holders = {part.name: member.checkpoint for member in members for part in member.parts}
    if ANSWERS[0] not in holders:
        raise UserError(
            f"{members[0].checkpoint} has no Thinker that reads media: give a checkpoint of stage E",
            page="howto/export.md#to-a-page-in-a-browser",
        )
    state = {"onnxruntime_web": ORT_WEB, "tokenizer": tokenizer_state(holders[ANSWERS[0]].tokenizer)}
    if "talker" in holders or "vocoder" in holders:
        if missing := [name for name in SPEAKS if name not in holders]:
            raise UserError(
                f"to speak, the page needs {', '.join(missing)}, too: give --voice and --vocoder, or neither",
                page="howto/export.md#to-a-page-in-a-browser",
            )
        if "conditioner" in holders:
            raise UserError(
                f"{holders['talker']} is conditioned on a Thinker: a page needs a Talker that is not",
                page="howto/export.md#to-a-page-in-a-browser",
            )
        state["characters"] = characters_state(holders["talker"].ctc_vocabulary)
    return state


def write_page(folder: Path, source: Path, parts: Mapping[str, Any], runtime: Path) -> None:
    """Writes the page, the chosen graph of each part, and onnxruntime-web.

    Args:
        folder: An empty folder.
        source: The folder of the graphs.
        parts: The parts, as in the manifest of an export to ONNX.
        runtime: The folder `dist` of onnxruntime-web.
    """
    for part in parts.values():
        file = part["variants"][part["chosen"]]["file"]
        shutil.copyfile(source / file, folder / file)
    shutil.copytree(_PAGE, folder, dirs_exist_ok=True)
    (folder / "ort").mkdir()
    shutil.copyfile(runtime / _SCRIPT, folder / "ort" / _SCRIPT)
    with gzip.open(folder / "ort" / f"{_WASM}.gz", "wb") as file:  # a quarter of its size; hosts may not compress
        file.write((runtime / _WASM).read_bytes())


def chosen_alone(part: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's entry of a part without the variants and the vocabulary that are not on the page."""
    kept = {key: value for key, value in part.items() if key not in ("file", "vocabulary")}
    return {**kept, "variants": {part["chosen"]: part["variants"][part["chosen"]]}}


def tokenizer_state(tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokenizer as plain data for `web_page/text.js`.

    Raises:
        UserError: If it is not one of omni's.
    """
    if isinstance(tokenizer, ByteTokenizer):
        return {"kind": "bytes"}
    if not isinstance(tokenizer, SentencePieceTokenizer):
        raise UserError("a page can be made of models with omni's own tokenizers only, not of a pretrained Thinker's")
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.state()["model"])
    ids = range(FIRST_PIECE, tokenizer.vocab_size)
    return {
        "kind": "sentencepiece",
        "pieces": [processor.id_to_piece(i) for i in ids],
        "scores": [processor.get_score(i) for i in ids],
    }


def characters_state(vocabulary: CTCVocabulary) -> dict[str, Any]:
    """The vocabulary of a Talker as plain data for `web_page/text.js`.

    Raises:
        UserError: If it is not one of characters.
    """
    if not isinstance(vocabulary, CharacterVocabulary):
        raise UserError("a page can be made of Talkers that read characters only")
    return vocabulary.state()


def find_runtime(given: Path | None) -> Path:
    """The folder `dist` of the package onnxruntime-web: the given one, or one that npm fetches and a cache keeps.

    Args:
        given: The folder, for a machine without npm or without a network.

    Raises:
        UserError: If it is not there, or npm is not or fails.
    """
    if given is not None:
        if not all((given / name).is_file() for name in (_SCRIPT, _WASM)):
            raise UserError(f"{given} has no {_SCRIPT} and {_WASM}: give the folder dist of onnxruntime-web {ORT_WEB}")
        return given
    kept = Path.home() / ".cache" / "omni" / f"onnxruntime-web-{ORT_WEB}"
    if not kept.is_dir():
        _fetch(kept)
    return kept


def _fetch(kept: Path) -> None:
    """Unpacks the two files of the npm package into a new folder."""
    npm, advice = shutil.which("npm"), f"or give the folder dist of onnxruntime-web {ORT_WEB} as --ort_web"
    if npm is None:
        raise UserError(f"--to web needs onnxruntime-web from npm, which is not installed: install npm, {advice}")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as name:
        place = Path(name)
        command = [npm, "pack", f"onnxruntime-web@{ORT_WEB}", "--silent"]  # npm checks the package's hash
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
        archives = list(place.glob("*.tgz"))
        if done.returncode or not archives:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UserError(f"npm cannot fetch onnxruntime-web {ORT_WEB} ({reason}): try again, {advice}")
        made = place / "made"
        made.mkdir()
        with tarfile.open(archives[0]) as archive:
            for file in (_SCRIPT, _WASM):
                content = archive.extractfile(f"package/dist/{file}")
                assert content is not None
                (made / file).write_bytes(content.read())
        if not kept.is_dir():  # another process may have been faster
            made.rename(kept)
