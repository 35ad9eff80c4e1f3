"""`omni data speech`: given sentences, read by many voices of eSpeak NG."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from omni.commands.data_ngram import read_texts
from omni.errors import UserError
from omni.synthetic import espeak
from omni.synthetic.languages.spoken import ENGLISH, sentence_split
from omni.synthetic.media_folder import ORIGIN, MediaFolder
from omni.synthetic.readings import PITCHES, RATES, Readings
from omni.synthetic.recordings import write_readings
from omni.text.ctc_vocabulary import ENGLISH as ENGLISH_CHARACTERS
from omni.text.normalization import TextNormalization
from omni.text.sentences import split_text

GENERATOR = 1  # increase it when the same arguments give other utterances than before
_FEWEST = 20  # sentences
_STRANGE = re.compile(r"[<>@=\[\]{}|\\/*#$€£~^_\x00]")  # of markup, and signs that are not read as they are written
_JOINED = re.compile(r" (?=[,.;:!?)’']|n't\b)|(?<=[(]) ")  # spaces of texts that are split into tokens, as WikiText


def write(
    texts: list[str],
    out: Path = Path("data/spoken"),
    *,
    hours: float | None = None,
    utterances: int | None = None,
    val_utterances: int = 200,
    language: str = ENGLISH,
    voice: str | None = None,
    spelled: float = 0.0,
    numbers: float = 0.0,
    longest: int = 200,
    text_column: str = "text",
    seed: int = 0,
) -> None:
    """Write a corpus of given sentences, read by many voices of eSpeak NG, to train a recogniser before real speech.

    Voices are accents, variants, rates and pitches; noise and masks are left to the augmentation of training.
    Validation has other voices and other sentences. The same arguments give the same files with the same eSpeak NG; an
    interrupted run is resumed.

    Example:
        omni data speech data/an4/train.jsonl books.txt --out data/spoken --hours 6 --spelled 0.2 --numbers 0.2

    Args:
        texts: .txt files (sentences, or paragraphs, which are split into sentences) and .jsonl manifests. Leave out the
            texts of recordings that are reported.
        out: Folder to write into: `train.jsonl`, `val.jsonl`, and 16 kHz mono WAV, about 115 MB an hour.
        hours: About the length of the training part; 1 by default.
        utterances: Number of training utterances, instead of `hours`.
        val_utterances: Number of validation utterances.
        language: Language of eSpeak NG, a BCP 47 tag; `en` has eight accents.
        voice: One voice of eSpeak NG that reads all, at one rate and pitch, to train a Talker: a language and, if
            wanted, a variant, such as en-us+f2.
        spelled: Share of utterances that are letters ("c a t"): of words of the texts, or of none.
        numbers: Share of utterances that are numbers: digit by digit, as years, or whole.
        longest: Most characters read at once; 200 take about 15 seconds. Longer sentences are split.
        text_column: Column of the text in .jsonl files.
        seed: Of voices, numbers and the order of the sentences.

    Raises:
        UserError: If an argument is out of range, the texts have too few sentences, eSpeak NG is missing or lacks the
            language, or `out` holds other data.
    """
    _check(hours, utterances, val_utterances, spelled, numbers, longest)
    language = language.lower()
    if language not in (known := espeak.languages()):
        raise UserError(f"--language is {language!r}: eSpeak NG has no such language; it has {len(known)}")
    spell = TextNormalization(case="keep", punctuation="keep", language=language)
    found = [*dict.fromkeys(sentences(texts, spell, longest=longest, text_column=text_column))]
    splits = {split: [text for text in found if sentence_split(text) == split] for split in ("train", "val")}
    if len(found) < _FEWEST or not all(splits.values()):
        raise UserError(
            f"{', '.join(texts)}: {len(found)} different sentences that can be read aloud, {len(splits['val'])} of "
            "them for validation: give some hundred"
        )
    if voice is not None:
        espeak.synthesize("a", voice)  # an unknown one is refused before anything is replaced
    readings = Readings(splits, language, spelled, numbers, spell, seed, voice)
    folder = MediaFolder(out, ("train", "val"))
    _check_out(folder)
    size = utterances if utterances is not None else readings.size_of(1.0 if hours is None else hours)
    spoken = {"train": readings.utterances("train", size), "val": readings.utterances("val", val_utterances)}
    origin = {"generator": GENERATOR, "seed": seed, "language": language, "spelled": spelled, "numbers": numbers}
    origin |= {} if voice is None else {"voice": voice}
    origin |= {"sentences": hashlib.sha256(json.dumps(found).encode()).hexdigest()}
    try:
        seconds = write_readings(folder, {split: some for split, some in spoken.items() if some}, origin)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error}; choose another --out") from error
    count, ranges = len({one.speaker for one in spoken["train"]}), f"pitches of {PITCHES[0]} to {PITCHES[-1]}"
    many = f"{count} voices in training, {RATES[0]} to {RATES[-1]} words per minute, {ranges}"
    print(
        f"{out}: {len(found):,} different sentences; {size:,} and {val_utterances:,} utterances, "
        f"{sum(seconds.values()) / 3600:.2f} hours; {many if voice is None else f'all by {voice}'}"
    )


def sentences(
    texts: Sequence[str], spell: TextNormalization, *, longest: int, text_column: str = "text"
) -> Iterator[str]:
    """The sentences of texts that can be read aloud as they are written, with digits spelled.

    Those with markup, without a letter or, in English, with other characters than its own are left out. Transcripts in
    upper case are read in lower case: eSpeak NG would spell some of their words.

    Args:
        texts: .txt and .jsonl files.
        spell: Spells digits.
        longest: Most characters of a sentence; longer ones are split.
        text_column: Column of the text in .jsonl files.
    """
    plain = TextNormalization(language=spell.language)
    for path in map(Path, texts):
        for text in read_texts(path.expanduser(), text_column):
            text = _JOINED.sub("", unicodedata.normalize("NFC", text))
            for segment in split_text(text.lower() if text.isupper() else text, max_length=longest):
                if _STRANGE.search(segment.text):
                    continue
                sentence = spell(segment.text)
                words = plain(sentence)
                foreign = spell.language.startswith(ENGLISH) and not set(words) <= set(ENGLISH_CHARACTERS)
                if any(map(str.isalpha, words)) and not foreign:
                    yield sentence


def _check(
    hours: float | None, utterances: int | None, val_utterances: int, spelled: float, numbers: float, longest: int
) -> None:
    if hours is not None and utterances is not None:
        raise UserError("give either --hours or --utterances, not both")
    if hours is not None and not 0 < hours < float("inf"):
        raise UserError(f"--hours is {hours}: it must be over 0")
    if utterances is not None and utterances < 1:
        raise UserError(f"--utterances is {utterances}: it must be 1 or more")
    if val_utterances < 0:
        raise UserError(f"--val_utterances is {val_utterances}: it must be 0 or more")
    if min(spelled, numbers) < 0 or spelled + numbers > 1:
        raise UserError(f"--spelled is {spelled} and --numbers {numbers}: shares of all utterances, 0 to 1 together")
    if longest < 1:
        raise UserError(f"--longest is {longest}: it must be 1 or more")


def _check_out(folder: MediaFolder) -> None:
    """Checks that nothing would be overwritten that this command did not write.

    Raises:
        UserError: If the folder holds something else, such as the world's speech.
    """
    folder.check_owner()
    origin = folder.path / ORIGIN
    if origin.is_file() and '"sentences"' not in origin.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"{folder.path} was written by another command: choose another --out")
