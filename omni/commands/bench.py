"""`omni bench`: races against peers, word errors, the load of a server, the check of a GPU."""

# ruff: noqa: B008  the defaults are immutable

from collections.abc import Callable
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TypeVar

import torch

from omni.bench.audio import AudioRace
from omni.bench.export import ExportRace, ExportReport
from omni.bench.gpu import GpuCheck, markdown
from omni.bench.nanogpt import NanoGPTRace
from omni.bench.race import Race, Report
from omni.bench.recognition import LookAheadTest, RecognitionTest, TempoTest, WordErrorReport
from omni.bench.retrieval import RetrievalRace
from omni.bench.serve import LoadReport, ServerLoad
from omni.bench.soak import SoakCounts, SoakReport
from omni.bench.soak import soak as soak_server
from omni.bench.speech import SpeechRace
from omni.bench.thinker import ThinkerRace
from omni.bench.turns import TurnComparison, TurnReport
from omni.bench.vision import VisionRace
from omni.errors import UserError
from omni.files import write_text

Found = TypeVar("Found", Report, WordErrorReport, ExportReport)


def _run(race: Race | RecognitionTest, run: Callable[[], Found]) -> Found:
    """Runs a race or a measurement, prints its table and writes its numbers."""
    if race.json is not None and not race.json.parent.is_dir():
        raise UserError(f"json: there is no folder {race.json.parent}")
    if race.threads is not None:
        if race.threads < 1:
            raise UserError(f"threads is {race.threads}: give 1 or more")
        torch.set_num_threads(race.threads)
    report = run()
    print(report.table())
    if race.json is not None:
        write_text(race.json, dumps(asdict(report), indent=1) + "\n")
    return report


def thinker(*, race: ThinkerRace = ThinkerRace()) -> Report:
    """Race the Thinker against Hugging Face's Llama of the same size, and print a table.

    Both train on the same random tokens with the same optimizer and their own losses, and both decode greedily with
    their own caches. They alternate, so that what slows the machine for a while slows both; a ratio is the median over
    rounds.

    Example:
        omni bench thinker --steps 2

    Args:
        race: The race.
    """
    return _run(race, race.run)


def nanogpt(*, race: NanoGPTRace = NanoGPTRace()) -> Report:
    """Race the Thinker to the held-out loss of nanoGPT's character model on the same text, and print a table.

    nanoGPT trains as published for a CPU: 4 layers of 128, 2,000 steps of 12 × 64 characters. The Thinker of the same
    size trains with the shipped optimizer and a shorter schedule. The time is that of training, without evaluations.

    Example:
        omni bench nanogpt --file input.txt

    Args:
        race: The race.
    """
    return _run(race, race.run)


def audio(*, race: AudioRace = AudioRace()) -> Report:
    """Race the audio encoder against torchaudio's Conformer with a CTC head, and print a table.

    Both have the same number of parameters (within 2 %) and emit the same number of sub-frames per second, and both
    train with the same optimizer on the same batches. They alternate, and a ratio is the median over rounds. Then each
    learns the world's speech until half of the words of held-out rows are right, at the better of the learning rates.

    Example:
        omni bench audio

    Args:
        race: The race.
    """
    return _run(race, race.run)


def vision(*, race: VisionRace = VisionRace()) -> Report:
    """Race the vision encoder against torchvision's VisionTransformer of the same size, and print a table.

    Both have the same number of layers, heads of the same width, patches of the same size, the same optimizer and the
    same batches. omni runs twice: with a linear patch stem like torchvision's, and with its convolutional stem. They
    alternate, and a ratio is the median over rounds. The data pipelines, which read, crop, mirror and normalise JPEG
    photographs, race too: training waits where a pipeline gives fewer images per second than training takes.

    Example:
        omni bench vision

    Args:
        race: The race.
    """
    return _run(race, race.run)


def retrieval(*, race: RetrievalRace = RetrievalRace()) -> Report:
    """Race retrieval of photographs by captions against a small CLIP, and print a table.

    omni trains as `configs/bench/flickr8k.yaml` does, after `configs/bench/cifar10.yaml`. The peer, a ResNet and a
    causal text Transformer with CLIP's loss, trains on the same batches: once from scratch, and once with a ResNet that
    was pretrained on labelled images, for `image_steps` steps. `start` names a trained encoder for omni.

    Example:
        omni bench retrieval --train FOLDER/captions.txt@train.txt --val FOLDER/captions.txt@val.txt

    Args:
        race: The race.
    """
    return _run(race, race.run)


def speech(*, race: SpeechRace = SpeechRace()) -> Report:
    """Measure the speed of speech, race the codec against EnCodec and Mimi, and print a table.

    All models are untrained, which does not change their speed; the Talker's pace is set to 15 characters per second.
    Codecs alternate, and a ratio is the median over rounds. EnCodec and Mimi turn codes into waveforms, as codec and
    vocoder do together; the codec alone, which makes spectrograms, has a row of its own.

    Example:
        omni bench speech --vocoder configs/models/laptop/vocoder.yaml

    Args:
        race: The race.
    """
    return _run(race, race.run)


def live(*, measurement: LookAheadTest = LookAheadTest()) -> WordErrorReport:
    """Measure the word errors of live recognition by its look-ahead, and choose one.

    The look-ahead is the time for which `omni.inference.live_recognizer` waits after a word. The first half of the
    recordings chooses the one with the fewest word errors, the shortest of equals; the second half reports it.

    Example:
        omni bench live --recognizer lightning_logs/audio/best.ckpt --data val.jsonl

    Args:
        measurement: The measurement.
    """
    return _run(measurement, measurement.run)


def tempo(*, measurement: TempoTest = TempoTest()) -> WordErrorReport:
    """Measure the word errors of a recogniser on recordings whose tempo is changed, as `omni speak --speed` does.

    The tempo of the spectrogram is changed, and Griffin–Lim makes audio of it; beside it torchaudio's phase vocoder.

    Example:
        omni bench tempo --recognizer lightning_logs/audio/best.ckpt --data val.jsonl

    Args:
        measurement: The measurement.
    """
    return _run(measurement, measurement.run)


def export(*, race: ExportRace = ExportRace()) -> ExportReport:
    """Measure exported parts in every runtime of this machine, and print a table.

    Recogniser, image classifier, a step of the Thinker, and the streams of codec, vocoder and Talker are exported as
    `torch.export` archives, AOTInductor packages and ONNX graphs, and compared with PyTorch. All runtimes alternate,
    one row at a time; a ratio is the median over rounds. Memory is the peak of a fresh process that only loads the part
    and runs it: interpreter, libraries, weights and activations.

    Example:
        omni bench export --parts recognizer --threads 1

    Args:
        race: The race.
    """
    return _run(race, race.run)


def serve(
    *, clients: list[int] | None = None, soak: float | None = None, load: ServerLoad = ServerLoad()
) -> LoadReport | SoakReport:
    """Measure a running server of `omni serve`: delays, throughput and memory by the number of clients.

    Each client sends a request and, after its answer, the next one. What is asked depends on the models of the server:
    text, spoken answers, transcriptions, speech. Run it on another machine, or on cores that the server does not use.

    A soak is one long run, in which some clients leave, send garbage or stall: it reports errors that none of them
    provoked, the memory after a warm-up and at the end, and the throughput. The exit code is 1 if there were errors.

    Example:
        omni bench serve --url http://127.0.0.1:8000 --clients 1 8

    Args:
        clients: Numbers of clients; by default 1, 4, 16 and 32, and 32 of a soak.
        soak: Minutes of a soak, instead of the levels of load.
        load: The load test.

    Raises:
        SystemExit: With code 1, if a soak had unprovoked errors.
    """
    if soak is not None:
        return _soaked(load, soak, [32] if clients is None else clients)
    report = load.run([1, 4, 16, 32] if clients is None else clients)
    print(report.table())
    if load.json is not None:
        write_text(load.json, dumps(asdict(report), indent=1) + "\n")
    return report


def _soaked(load: ServerLoad, minutes: float, clients: list[int]) -> SoakReport:
    """Runs a soak, prints its table and writes its numbers."""
    if len(clients) != 1:
        raise UserError(f"a soak has one number of clients, not {clients}")

    def progress(seconds: float, counts: SoakCounts) -> None:
        answers, errors = counts.answers.total(), counts.errors.total()
        print(f"{seconds / 60:.1f} of {minutes:g} min: {answers:,} answers, {errors:,} errors", flush=True)

    report = soak_server(load, minutes=minutes, clients=clients[0], progress=progress)
    print(report.table())
    if load.json is not None:
        write_text(load.json, dumps(report.json(), indent=1) + "\n")
    if report.counts.errors:
        raise SystemExit(1)
    return report


def turns(*, comparison: TurnComparison = TurnComparison()) -> TurnReport:
    """Compare the turn detector of live speech with silero-vad, if that is installed, and print a table.

    Recordings are joined with pauses, in several kinds of noise. The threshold of each detector is chosen on the
    recordings of `train`, and what is printed is of the voices of `val`.

    Example:
        omni bench turns --train train.jsonl --val val.jsonl

    Args:
        comparison: The comparison.
    """
    report = comparison.run()
    print(report.table())
    if comparison.json is not None:
        write_text(comparison.json, dumps(asdict(report), indent=1) + "\n")
    return report


def gpu(*, check: GpuCheck = GpuCheck(), out: Path = Path("build")) -> None:
    """Train every stage on a GPU for a few steps, resume, measure memory, speed, MFU and decoding, and print a table.

    A measurement that fails is reported in its row and does not end the others; the exit code is then 1. The check has
    not run on a GPU yet.

    Example:
        omni bench gpu --minutes 8

    Args:
        check: The check.
        out: Folder of gpu.json and gpu.md.

    Raises:
        UserError: If there is no GPU, or no such stage.
        SystemExit: With code 1, if a measurement failed.
    """
    results = []
    for result in check.run():
        print(f"{result.name}: {result.error or result.status}, {result.seconds:.0f} s", flush=True)
        results.append(result)
    table = markdown(check.conditions, results)
    report = {"conditions": check.conditions, "results": [asdict(result) for result in results]}
    write_text(out / "gpu.json", dumps(report, indent=1) + "\n")
    write_text(out / "gpu.md", table)
    print(f"\n{table}")
    if any(result.status == "failed" for result in results):
        raise SystemExit(1)
