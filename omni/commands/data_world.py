"""`omni data world`: writes the embedded data set."""

from pathlib import Path
from typing import Any

from omni.synthetic.world import WorldSizes, write_world


def write(out: Path = Path("data/world"), *, sizes: WorldSizes = WorldSizes(), seed: int = 0) -> None:  # noqa: B008
    """Write the world, omni's embedded data set: text about scenes of coloured shapes, speech, images, conversations.

    The same seed gives the same text and pixels on every machine, and the same speech with the same eSpeak NG.
    Training and validation share no scene, no spoken sentence and no voice, whatever their seeds. A complete world of
    the same arguments is kept; an interrupted run is resumed.

    Args:
        out: Folder to write into. `text/`, `speech/`, `images/` and `conversations/` get a manifest `train.jsonl` and
            `val.jsonl` each, `speech/` also `narrator.jsonl` and `narrator_val.jsonl`. Audio is 16 kHz mono WAV, images
            are PNG of 64 by 64 pixels. `world.json` records arguments and checksums.
        sizes: Number of rows in each split.
        seed: Any whole number; another seed gives another world.

    Raises:
        UserError: If a size is too low, `out` cannot be written or holds files of another origin, or eSpeak NG is
            missing where there is speech.
    """
    record, written = write_world(Path(out), sizes, seed=seed)
    print(f"{out}: wrote {_summary(record)}" if written else f"{out} is up to date: {_summary(record)}")


def _summary(record: dict[str, Any]) -> str:
    hours = sum(record["seconds"].values()) / 3600
    speech = (
        f"{record['utterances']} and {record['val_utterances']} utterances of many voices, {record['narrations']} and "
        f"{record['val_narrations']} of one, {hours:.1f} hours"
    )
    return (
        f"{record['documents']} documents to train on and {record['val_documents']} to validate on, "
        f"{record['words']} words, {record['sentences']} different sentences; "
        f"{speech if record['seconds'] else 'no utterances'}; {record['pictures']} and {record['val_pictures']} "
        f"pictures; {record['conversations']} and {record['val_conversations']} conversations"
    )
