"""`omni data world`: writes the embedded data set."""

from pathlib import Path
from typing import Any

from omni.synthetic.languages.spoken import SpokenLanguage, open_language
from omni.synthetic.world import WorldSizes, write_world
from omni.text.ctc_vocabulary import characters_of
from omni.text.normalization import TextNormalization


def write(
    out: Path | None = None,
    *,
    language: str = "en",
    sentences: Path | None = None,
    sizes: WorldSizes = WorldSizes(),  # noqa: B008
    seed: int = 0,
) -> None:
    """Write the world, omni's embedded data set: text about scenes of coloured shapes, speech, images, conversations.

    The same seed gives the same text and pixels on every machine, and the same speech with the same eSpeak NG.
    Training and validation share no scene, no spoken sentence and no voice, whatever their seeds. A complete world of
    the same arguments is kept; an interrupted run is resumed.

    In another language than English, text and speech are sentences and stories of that language, the pictures keep
    their English captions and labels, and there are no conversations. `chain.yaml` in the folder is then a chain for
    `omni train`: the Thinker, the recogniser, the codec, the Talker and the vocoder of the language.

    Example:
        omni data world --language de

    Args:
        out: Folder to write into; by default data/world, or data/world_LANGUAGE. `text/`, `speech/`, `images/` and
            `conversations/` get a manifest `train.jsonl` and `val.jsonl` each, `speech/` also `narrator.jsonl` and
            `narrator_val.jsonl`. Audio is 16 kHz mono WAV, images are PNG of 64 by 64 pixels. `world.json` records
            arguments and checksums.
        language: Language of eSpeak NG, a BCP 47 tag: en, de, es, fr and ru have sentences of their own.
        sentences: A text file with a sentence on each line: for any other language of eSpeak NG.
        sizes: Number of rows in each split.
        seed: Any whole number; another seed gives another world.

    Raises:
        UserError: If a size is too low, `out` cannot be written or holds files of another origin, eSpeak NG is missing
            where there is speech, or it lacks the language.
    """
    spoken = open_language(language, sentences)
    name = "world" if spoken is None else f"world_{spoken.code}"
    out = Path("data", name) if out is None else Path(out)
    record, written = write_world(out, sizes, seed=seed, language=spoken)
    print(f"{out}: wrote {_summary(record)}" if written else f"{out} is up to date: {_summary(record)}")
    if spoken is not None:
        print("conversations are written only in English: they are left out")
        if record["seconds"]:
            print(f"train it with: omni train {_write_chain(out, spoken)}")


def _write_chain(out: Path, language: SpokenLanguage) -> Path:
    from omni.pipeline.language_chain import write_language_chain  # imports PyTorch

    normalization = TextNormalization(digits="keep", language=language.code)
    return write_language_chain(out, language.code, characters_of(language.texts(), normalization))


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
