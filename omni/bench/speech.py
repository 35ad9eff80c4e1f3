"""The speed of speech: codec against EnCodec and Mimi, Talker, vocoder, the whole chain, and the first sound."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml
from torch import Tensor

from omni.bench.codecs import BenchmarkCodec, EnCodec, Mimi, Ours
from omni.bench.conditions import cpu, versions
from omni.bench.timing import alternate, seconds
from omni.checkpoints.recipe import build
from omni.decoding.talker import SpeechSampling, choose_frame, speak_codes
from omni.devices import resolve
from omni.errors import UserError
from omni.inference.synthesizer import GRIFFIN_LIM, Synthesizer, load_vocoder
from omni.models.codec import Codec
from omni.models.talker import MAX_ADVANCE, Talker, gather
from omni.text.ctc_vocabulary import CharacterVocabulary
from omni.training.shipped import CONFIGS

TEXT = "The small red star stands to the left of the large blue circle near the edge."
VOCOS = "omni.models.vocoder.Vocos"
_PACE = 15  # characters a second, as people read, that the untrained Talker moves on by


@dataclass(frozen=True)
class Result:
    """One measure.

    Attributes:
        measure: What was measured, in times real time: seconds of sound for each second of work.
        omni: Of omni, a median.
        peers: Of the others, by name, medians.
        ratios: How many times faster omni was than each, in each round.
    """

    measure: str
    omni: float
    peers: dict[str, float]
    ratios: dict[str, list[float]]


@dataclass(frozen=True)
class Delay:
    """A step on the way to the first sound.

    Attributes:
        step: What is done.
        p50: Milliseconds, the median.
        p95: Milliseconds that 95 % of the trials keep to.
    """

    step: str
    p50: float
    p95: float


@dataclass(frozen=True)
class Report:
    """All measures.

    Attributes:
        conditions: What was run, and on what.
        results: Speeds.
        delays: From the text to the first sound, step by step and in all.
    """

    conditions: dict[str, str]
    results: list[Result]
    delays: list[Delay]


def race(
    *,
    size: str = "laptop",
    vocoder: str = GRIFFIN_LIM,
    repeats: int = 5,
    utterance: float = 3.0,
    trials: int = 40,
    peers: bool = True,
    device: str = "cpu",
    threads: int | None = None,
    json: str | None = None,
) -> Report:
    """Measure how fast speech is made, and race the codec against EnCodec and Mimi; print a table.

    All models are untrained, which changes nothing of their speed; the Talker's pace is set to 15 characters a second.
    Codecs take turns, and a ratio is the median over rounds. EnCodec and Mimi make waveforms of codes, and so do codec
    and vocoder here; the codec alone, which makes spectrograms, stands beside it.

    Args:
        size: tiny, laptop, ... or a folder with talker.yaml and codec.yaml.
        vocoder: griffin-lim, a checkpoint that holds a vocoder, or a YAML file with the arguments of Vocos, or with
            class_path and init_args of another one.
        repeats: Rounds.
        utterance: Seconds of sound that codecs and vocoder work on.
        trials: Of the first sound.
        peers: Whether EnCodec and Mimi race too; they need Hugging Face's transformers.
        device: cpu or cuda.
        threads: Threads on a CPU; PyTorch's own choice if not given.
        json: A file to write all numbers to.
    """
    for name, value in {"repeats": repeats, "trials": trials}.items():
        if value < 1:
            raise UserError(f"{name} is {value}: give 1 or more")
    if not 0.1 <= utterance <= 60:
        raise UserError(f"utterance is {utterance} s: give 0.1 to 60")
    if json is not None and not Path(json).parent.is_dir():
        raise UserError(f"json: there is no folder {Path(json).parent}")
    if threads is not None:
        torch.set_num_threads(threads)
    voice = make(size, vocoder, device)
    others: list[Any] = [EnCodec(), Mimi()] if peers else []
    for other in others:
        other.model.to(device)
    with torch.inference_mode():
        results = [*_codecs(voice, others, utterance, repeats), *_speaking(voice, utterance, repeats)]
        delays = _first_sound(voice, trials)
    report = Report(_conditions(voice, others, vocoder, device, utterance, repeats, trials), results, delays)
    print(_table(report))
    if json is not None:
        Path(json).write_text(dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
    return report


def make(size: str, vocoder: str, device: str) -> Synthesizer:
    """An untrained Talker, codec and vocoder of these sizes; see `race`.

    Raises:
        UserError: If there are no such sizes, or they do not fit each other.
    """
    folder = CONFIGS / "models" / size
    folder = folder if folder.is_dir() else Path(size)
    options = {}
    for part in ("talker", "codec"):
        path = folder / f"{part}.yaml"
        if not path.is_file():
            raise UserError(f"size {size!r} is neither a folder of configs/models nor one with talker.yaml, codec.yaml")
        options[part] = yaml.safe_load(path.read_text(encoding="utf-8"))
    torch.manual_seed(0)
    talker, codec = Talker(**options["talker"]).eval(), Codec(**options["codec"]).eval()
    whole, rest = divmod(_PACE / talker.frame_rate, 1)
    shares = torch.zeros(MAX_ADVANCE + 2)
    shares[int(whole)], shares[int(whole) + 1] = 1 - rest, rest
    with torch.no_grad():
        talker.advance.weight.zero_()
        talker.advance.bias.copy_(shares[: MAX_ADVANCE + 1].clamp(min=1e-9).log())
    talker.transpose_weights_for_decoding()
    units = CharacterVocabulary()
    if talker.vocab_size != units.vocab_size:
        raise UserError(f"vocab_size of {folder}/talker.yaml must be {units.vocab_size}, as many as English has")
    return Synthesizer(talker, codec, _vocoder(vocoder, codec.num_mels), units, device=resolve(device))


def _vocoder(name: str, num_mels: int) -> torch.nn.Module:
    path = Path(name)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return load_vocoder(name, num_mels)
    options = yaml.safe_load(path.read_text(encoding="utf-8"))
    named = "class_path" in options
    return build(options if named else {"class_path": VOCOS, "init_args": options}).eval()


def _codecs(voice: Synthesizer, others: Sequence[BenchmarkCodec], utterance: float, repeats: int) -> Iterator[Result]:
    contestants: list[BenchmarkCodec] = [Ours(voice.codec, voice.vocoder), *others]
    device = voice.talker.start.device
    for batch in (1, 8):
        audios = [torch.randn(batch, round(utterance * one.sample_rate), device=device) / 10 for one in contestants]
        codes = [one.encode(audio) for one, audio in zip(contestants, audios, strict=True)]
        blocks = [
            lambda one=one, audio=audio: one.encode(audio) for one, audio in zip(contestants, audios, strict=True)
        ]
        yield _race(f"sound to codes, batch {batch}", contestants, blocks, batch * utterance, repeats)
        decode: list[Callable[[], Any]] = [
            lambda one=one, code=code: one.decode(code) for one, code in zip(contestants, codes, strict=True)
        ]
        decode[0] = lambda code=codes[0]: voice.codec.decode(code)
        yield _race(f"codes to spectrogram, batch {batch}", contestants[:1], decode[:1], batch * utterance, repeats)
        decode[0] = lambda code=codes[0]: contestants[0].decode(code)
        yield _race(f"codes to sound, batch {batch}", contestants, decode, batch * utterance, repeats)


def _speaking(voice: Synthesizer, utterance: float, repeats: int) -> Iterator[Result]:
    """Talker, vocoder and the whole chain. The Talker says the same in every round."""
    breath, device = voice.read(TEXT)[0].units, voice.talker.start.device
    speaker = voice.speaker_id(None)
    for batch in (1, 8):
        spoken: dict[str, Any] = {"speakers": None if speaker is None else [speaker] * batch, "numbers": [0] * batch}

        def talk(batch: int = batch, spoken: dict[str, Any] = spoken) -> list[Tensor]:
            return speak_codes(voice.talker, [breath] * batch, **spoken)

        said = sum(map(len, talk())) / voice.talker.frame_rate
        mels = torch.randn(batch, round(100 * utterance), voice.codec.num_mels, device=device)
        work: dict[str, tuple[Callable[[], Any], float]] = {
            "Talker": (talk, said),
            "vocoder": (lambda mels=mels: voice.vocoder(mels), batch * utterance),
            "text to sound": (lambda batch=batch: voice.speak([TEXT] * batch), said),
        }
        if batch == 1:
            work["text to sound, streamed"] = (lambda: list(voice.stream(TEXT)), said)
        for measure, (block, amount) in work.items():
            yield _race(f"{measure}, batch {batch}", [], [block], amount, repeats)


def _race(
    measure: str,
    contestants: Sequence[BenchmarkCodec],
    blocks: Sequence[Callable[[], Any]],
    work: float,
    repeats: int,
) -> Result:
    rounds = alternate(measure, blocks, repeats=repeats)
    names = [one.name for one in contestants[1:]]
    medians = [work / statistics.median(times[i] for times in rounds) for i in range(len(blocks))]
    ratios = {name: [times[i] / times[0] for times in rounds] for i, name in enumerate(names, start=1)}
    return Result(measure, medians[0], dict(zip(names, medians[1:], strict=True)), ratios)


def _first_sound(voice: Synthesizer, trials: int) -> list[Delay]:
    """What passes between a text and its first samples, in milliseconds."""
    spent: dict[str, list[float]] = {}
    for trial in range(trials + 2):
        steps = _steps(voice, trial)
        steps["from the text to the first samples"] = seconds(lambda: next(voice.stream(TEXT)))
        for step, time in steps.items() if trial > 1 else ():  # two to warm up
            spent.setdefault(step, []).append(1000 * time)
    quantiles = {
        step: torch.tensor(times).quantile(torch.tensor([0.5, 0.95])).tolist() for step, times in spent.items()
    }
    return [Delay(step, *values) for step, values in quantiles.items()]


def _steps(voice: Synthesizer, trial: int) -> dict[str, float]:
    """Seconds of each step of the first frame alone."""
    talker, codec, vocoder = voice.talker, voice.codec, voice.vocoder
    device, breath = talker.start.device, voice.read(TEXT)[0].units
    speaker = voice.speaker_id(None)
    text, found = torch.tensor([breath], device=device), {}
    voices = None if speaker is None else torch.tensor([speaker], device=device)

    def timed(step: str, work: Callable[[], Tensor]) -> Tensor:
        result = []
        found[step] = seconds(lambda: result.append(work()))
        return result[0]

    lengths, place = torch.tensor([len(breath)], device=device), torch.zeros(1, 1, dtype=torch.long, device=device)
    encoded = timed("text encoder", lambda: talker.encode_text(text, lengths, speakers=voices))
    cache = talker.new_cache(1, 256)
    state = timed("first frame", lambda: talker.frame(None, gather(encoded, place)[:, 0], cache))
    draw = [Random(trial)]
    codes = timed("depth module", lambda: choose_frame(talker, state, SpeechSampling(), draw)[0])
    mels = timed("codec", lambda: codec.decode(codes[:, None]))
    timed("vocoder, one frame", lambda: vocoder(mels))
    return found


def _conditions(
    voice: Synthesizer,
    others: Sequence[BenchmarkCodec],
    vocoder: str,
    device: str,
    utterance: float,
    repeats: int,
    trials: int,
) -> dict[str, str]:
    models: dict[str, Any] = {"talker": voice.talker, "codec": voice.codec, "vocoder": voice.vocoder}
    models |= {one.name: one.model for one in others}
    counts = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    codec = voice.codec
    rate = f"{codec.num_codebooks} × {codec.codebook_size} codes at {codec.frame_rate:g} Hz"
    sound = "is causal: the first sound is that of one frame" if voice.causal else "needs a whole sentence"
    return {
        "versions": versions(*(["transformers"] if others else [])),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else cpu(),
        "parameters": ", ".join(f"{name} {count:,}" for name, count in counts.items()),
        "codes": f"omni {rate}; EnCodec 2 × 1,024 at 75 Hz; Mimi 8 × 2,048 at 12.5 Hz" if others else rate,
        "vocoder": f"{vocoder}, which {sound}",
        "speech": f"32-true, untrained; {utterance:g} s of noise, and {TEXT!r} at 15 characters a second",
        "turns": f"{repeats} rounds; median, and the lowest and highest ratio of a round; {trials} first sounds",
    }


def _table(report: Report) -> str:
    width = max(map(len, report.conditions))
    lines = [f"{name:<{width}}  {text}" for name, text in report.conditions.items()]
    lines.append(f"\n{'× real time':36}{'omni':>9}  others, and how many times faster omni is")
    for result in report.results:
        cells = []
        for name, value in result.peers.items():
            ratios = result.ratios[name]
            spread = f" ({min(ratios):.1f}–{max(ratios):.1f})" if len(ratios) > 1 else ""
            cells.append(f"{name} {value:.1f}: {statistics.median(ratios):.1f} ×{spread}")
        lines.append(f"{result.measure:36}{result.omni:9,.1f}  {'; '.join(cells)}".rstrip())
    lines.append(f"\n{'first sound':36}{'p50':>9}{'p95':>9}  ms")
    lines += [f"{delay.step:36}{delay.p50:9,.1f}{delay.p95:9,.1f}" for delay in report.delays]
    return "\n".join(lines)
