"""`omni adapt voice`: a Talker with your own voice, from recordings."""

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from omni.commands.train import run_pipeline
from omni.errors import UserError
from omni.inference.recognizer import load_recognizer
from omni.models.pretrained.speaker_encoder import PretrainedSpeakerEncoder
from omni.pipeline.definition import read_pipeline
from omni.pipeline.report import write_report
from omni.pipeline.voice.chain import VoiceParts, edited_chain, open_parts, write_chain
from omni.pipeline.voice.preparation import RECORD, VoiceSplits, earlier_splits, key_of, write_splits
from omni.pipeline.voice.recordings import Recording, read_recordings
from omni.pipeline.voice.report import write_voice_report
from omni.pipeline.voice.similarity import SpeakerComparison

_FEW = 0.1  # share of utterances: the pitch of some is always misread


def adapt_voice(
    folder: Path,
    *,
    recognizer: str | None = None,
    codec: str | None = None,
    talker: str | None = None,
    vocoder: str | None = None,
    name: str = "voice",
    out: Path | None = None,
    speaker: str | None = None,
    sample_rate: int | None = None,
    longest: float = 12.0,
    sentences: int = 50,
    jobs: int = 1,
    device: str = "auto",
    speaker_encoder: str | None = None,
    speaker_encoder_revision: str | None = None,
    prepare_only: bool = False,
) -> None:
    """Train a Talker with its codec and its vocoder on recordings of one person.

    The recordings are checked as by `omni data check`, cut at pauses, freed of silence at their ends, and aligned with
    their transcripts; those without are transcribed. What cannot be used, such as silence, music or the transcript of
    another recording, is left out, counted and reported. Two voices are noticed if their pitch differs, and mostly if
    they speak at once.

    Then `chain.yaml` in the data set's folder is run as by `omni train`: the same command resumes it, and
    `omni train OUT/chain.yaml` after changes to that file. The report, lightning_logs/NAME/voice.md, compares the voice
    with the recordings on held-out sentences: word errors, pitch, sounds and spectrograms; with --speaker_encoder also
    speaker similarity.

    Example:
        omni adapt voice FOLDER --talker lightning_logs/world/talker/best.ckpt

    Args:
        folder: Audio files, each with or without a .txt of the same name beside it; or a manifest (.jsonl, .csv, .tsv),
            or a corpus, such as LJSpeech with metadata.csv and wavs/.
        recognizer: A checkpoint with a recogniser of characters, which aligns, transcribes and scores; by default that
            of the Talker's checkpoint.
        codec: A checkpoint with the codec to start from; by default that of the Talker's checkpoint, or a new one.
        talker: A checkpoint with the Talker to start from; by default a new one.
        vocoder: A checkpoint with the vocoder to start from; by default a new one.
        name: Name of the voice: of its runs in lightning_logs.
        out: Folder of the data set and the chain; by default data/NAME.
        speaker: The speaker, in a manifest with several.
        sample_rate: Of the voice in Hz, 16000 or 24000; by default that of the vocoder to start from, or 16000.
            Recordings of 16 kHz or less are left out at 24000.
        longest: Most seconds of an utterance, 2 to 20: longer recordings are cut at pauses.
        sentences: Most test sentences of the report.
        jobs: Most stages that run at the same time.
        device: Where recordings are transcribed and aligned: cpu, cuda, or auto.
        speaker_encoder: A speaker-verification model that measures how near the voice is to the speaker: a name on the
            Hub, such as microsoft/wavlm-base-plus-sv, or a folder (extra `hf`); by default that is not measured.
        speaker_encoder_revision: Its commit, branch or tag on the Hub.
        prepare_only: Write the data set and the chain, and train nothing.

    Raises:
        UserError: If there are no recordings, too few of them can be used, checkpoints do not fit each other, or there
            is no such speaker encoder.
    """
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"--name is {name!r}: give the name of a folder in lightning_logs")
    if not 2 <= longest <= 20:
        raise UserError(f"--longest is {longest:g} s: give 2 to 20")
    if min(jobs, sentences) < 1:
        raise UserError("--jobs and --sentences must be 1 or more")
    out = Path("data", name) if out is None else out.expanduser()
    parts = open_parts(recognizer=recognizer, codec=codec, talker=talker, vocoder=vocoder, sample_rate=sample_rate)
    encoder = _speaker_encoder(speaker_encoder, speaker_encoder_revision)
    splits, others = _prepared(folder, out, parts, speaker=speaker, longest=longest, device=device)
    _print_splits(out, splits)
    if chain := edited_chain(out):
        print(f"{chain} has been edited: it is kept; delete it to have it written again")
    else:
        chain = write_chain(out, name, parts, longest=longest)
    if prepare_only:
        print(f"train it with: omni train {chain}")
        return
    pipeline = read_pipeline(chain)
    timings = run_pipeline(pipeline, jobs=jobs)
    print(f"report: {write_report(pipeline, timings)}")
    comparison = None
    if encoder is not None:
        comparison = SpeakerComparison(encoder, encoder.version, parts.talker, parts.vocoder, others)
    report = write_voice_report(
        pipeline, out, splits, recognizer=str(parts.recognizer), sentences=sentences, comparison=comparison
    )
    print(f"report of the voice: {report}")
    runs = {stage: pipeline.stages[stage].folder / "best.ckpt" for stage in ("talker", "vocoder")}
    print(f'speak with it: omni speak "Hello." --checkpoint {runs["talker"]} --vocoder {runs["vocoder"]}')


def _speaker_encoder(source: str | None, revision: str | None) -> PretrainedSpeakerEncoder | None:
    """The encoder, loaded before the training: a mistake is reported at once, and later the Hub is not needed."""
    if source is None:
        if revision is not None:
            raise UserError("--speaker_encoder_revision is of --speaker_encoder: give both, or neither")
        return None
    source = str(Path(source).expanduser()) if source.startswith("~") else source
    return PretrainedSpeakerEncoder(source=source, revision=revision)


def _prepared(
    folder: Path, out: Path, parts: VoiceParts, *, speaker: str | None, longest: float, device: str
) -> tuple[VoiceSplits, Sequence[Recording]]:
    """The data set, written unless it is complete already, and recordings of other speakers."""
    recognizer = load_recognizer(str(parts.recognizer), device=device)
    checked = read_recordings(folder, recognizer, speaker=speaker)
    for warning in checked.warnings:
        print(f"warning: {warning}")
    key = key_of(checked, recognizer, longest, parts.sample_rate)
    if (splits := earlier_splits(out, key)) is not None:
        return splits, checked.others
    splits = write_splits(
        out,
        checked,
        recognizer,
        key=key,
        longest=longest,
        sample_rate=parts.sample_rate,
        progress=lambda recordings: tqdm(recordings, "cutting and aligning", leave=False, disable=None),
    )
    return splits, checked.others


def _print_splits(out: Path, splits: VoiceSplits) -> None:
    for split, count in splits.utterances.items():
        print(f"{out / split}.jsonl: {count} utterances, {splits.seconds[split] / 60:.1f} minutes")
    if splits.transcribed:
        print(f"transcribed by the recogniser: {splits.transcribed} utterances; read some of the texts before training")
    for count, what in (
        (splits.other_pitch, "have another pitch than most: are there two voices?"),
        (splits.two_voices, "sound like two voices at once: is there another one, or music?"),
    ):
        if count > _FEW * sum(splits.utterances.values()):
            print(f"warning: {count} utterances {what} They are listed in {out / RECORD}")
    for reason, count in splits.left_out.items():
        print(f"left out, {reason}: {count}")
