"""The speed of speech: codec against EnCodec and Mimi, Talker, vocoder, all parts together, and the first sound."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml
from torch import Tensor

from omni.bench import race
from omni.bench.codecs import BenchmarkCodec, EnCodec, Mimi, OmniCodec
from omni.bench.race import Comparison, Race, Report
from omni.checkpoints.recipe import build
from omni.decoding.acceleration import accelerate
from omni.decoding.sampling_options import SpeechSampling
from omni.decoding.speech_options import GRIFFIN_LIM
from omni.decoding.talker import choose_frame, speak_codes
from omni.devices import has_compiler, resolve
from omni.errors import UserError
from omni.inference.synthesizer import Synthesizer, load_vocoder
from omni.models.codec import Codec
from omni.models.talker import MAX_ADVANCE, Talker, gather
from omni.text.ctc_vocabulary import CharacterVocabulary
from omni.training.shipped import CONFIGS

TEXT = "The small red star stands to the left of the large blue circle near the edge."
VOCOS = "omni.models.vocoder.Vocos"
_CHARACTERS_PER_SECOND = 15  # the pace of the untrained Talker, as people read
_UNIT = "× real time"


@dataclass(frozen=True)
class Delay:
    """A step on the way to the first sound.

    Attributes:
        step: Name of the step.
        p50: Milliseconds, the median.
        p95: Milliseconds, the 95th percentile.
    """

    step: str
    p50: float
    p95: float


@dataclass(frozen=True)
class SpeechReport(Report):
    """Speeds in times real time, and delays.

    Attributes:
        delays: From the text to the first sound, by step and in total.
    """

    delays: list[Delay]

    def table(self) -> str:
        """The report as text."""
        rows = [(delay.step, f"{delay.p50:,.1f}", f"{delay.p95:,.1f}", "ms") for delay in self.delays]
        return "\n".join([super().table(), "", *race.aligned([("first sound", "p50", "p95", ""), *rows])])


@dataclass(frozen=True, kw_only=True)
class SpeechRace(Race):
    """The speed of speech, and the codec against EnCodec and Mimi.

    Attributes:
        size: tiny, laptop, ... or a folder with talker.yaml and codec.yaml.
        vocoder: griffin-lim, a checkpoint that holds a vocoder, or a YAML file with the arguments of Vocos, or with
            class_path and init_args of another vocoder.
        utterance: Seconds of audio for codecs and vocoder, 0.1 to 60.
        trials: Number of measurements of the first sound.
        peers: Whether to compare with EnCodec and Mimi, which need Hugging Face's transformers.
        fast: Whether speaking is also measured with --compile and, on a CPU, --int8; it takes a minute and needs a C++
            compiler.
        device: auto, cpu, cuda, ...
    """

    positive = ("repeats", "trials")

    size: str = "laptop"
    vocoder: str = GRIFFIN_LIM
    utterance: float = 3.0
    trials: int = 40
    peers: bool = True
    fast: bool = True
    device: str = "cpu"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.1 <= self.utterance <= 60:
            raise UserError(f"utterance is {self.utterance} s: give 0.1 to 60")

    def run(self) -> SpeechReport:
        """Runs the race.

        Raises:
            UserError: If there is no such size, vocoder or device, or transformers is missing.
        """
        voice = build_synthesizer(self.size, self.vocoder, self.device)
        peers: dict[str, Any] = {"EnCodec": EnCodec(), "Mimi": Mimi()} if self.peers else {}
        for peer in peers.values():
            peer.model.to(voice.talker.start.device)
        voices: dict[str, Synthesizer] = {}
        if self.fast and has_compiler(voice.talker.start.device.type):
            voices["omni fast"] = build_synthesizer(self.size, self.vocoder, self.device)
            accelerate([voices["omni fast"].talker], compile=True, int8=voice.talker.start.device.type == "cpu")
        voices["omni"] = voice
        with torch.inference_mode():
            results = [*self._codecs(voice, peers), *self._speaking(voices)]
            delays = _first_sound(next(iter(voices.values())), self.trials)
        codec = voice.codec
        models: dict[str, Any] = {"talker": voice.talker, "codec": codec, "vocoder": voice.vocoder}
        rate = f"omni {codec.num_codebooks} × {codec.codebook_size} codes at {codec.frame_rate:g} Hz"
        sound = "is causal: the first sound is one frame" if voice.causal else "needs a whole sentence"
        return SpeechReport(
            self.conditions(
                *(("transformers",) if peers else ()),
                device=voice.talker.start.device,
                parameters=race.parameter_counts(models | {name: peer.model for name, peer in peers.items()}),
                codes=rate + ("; EnCodec 2 × 1,024 at 75 Hz; Mimi 8 × 2,048 at 12.5 Hz" if peers else ""),
                vocoder=f"{self.vocoder}, which {sound}",
                speech=f"32-true, untrained; {self.utterance:g} s of noise, and {TEXT!r} at 15 characters a second",
                trials=f"{self.trials} of the first sound, by {next(iter(voices))}",
            ),
            results,
            delays,
        )

    def _codecs(self, voice: Synthesizer, peers: Mapping[str, BenchmarkCodec]) -> Iterator[Comparison]:
        """Encoding and decoding; omni's also without the vocoder, as it makes spectrograms and the peers waveforms."""
        codecs: dict[str, BenchmarkCodec] = {"omni": OmniCodec(voice.codec, voice.vocoder), **peers}
        device = voice.talker.start.device
        for batch in (1, 8):
            encode, decode, codes = {}, {}, {}
            for name, codec in codecs.items():
                audio = torch.randn(batch, round(self.utterance * codec.sample_rate), device=device) / 10
                codes[name] = codec.encode(audio)
                encode[name] = lambda codec=codec, audio=audio: codec.encode(audio)
                decode[name] = lambda codec=codec, codes=codes[name]: codec.decode(codes)
            spectrogram = {"omni": lambda codes=codes["omni"]: voice.codec.decode(codes)}
            for measure, blocks in (
                ("sound to codes", encode),
                ("codes to spectrogram", spectrogram),
                ("codes to sound", decode),
            ):
                work = batch * self.utterance
                yield self.compare(f"{measure}, batch {batch}", _UNIT, blocks, work=work)

    def _speaking(self, voices: Mapping[str, Synthesizer]) -> Iterator[Comparison]:
        """Talker, vocoder and all parts together. The Talker makes the same codes in every round."""
        voice = voices["omni"]
        for batch in (1, 8):
            mels = torch.randn(
                batch, round(100 * self.utterance), voice.codec.num_mels, device=voice.talker.start.device
            )
            duration = sum(map(len, _talk(voice, batch))) / voice.talker.frame_rate
            work: dict[str, tuple[dict[str, Callable[[], Any]], float]] = {
                "Talker": ({name: partial(_talk, one, batch) for name, one in voices.items()}, duration),
                "vocoder": ({"omni": lambda mels=mels: voice.vocoder(mels)}, batch * self.utterance),
                "text to sound": ({n: partial(one.speak, [TEXT] * batch) for n, one in voices.items()}, duration),
            }
            if batch == 1:
                streamed = {name: lambda one=one: list(one.stream(TEXT)) for name, one in voices.items()}
                work["text to sound, streamed"] = (streamed, duration)
            for measure, (blocks, amount) in work.items():
                yield self.compare(f"{measure}, batch {batch}", _UNIT, blocks, work=amount)


def _talk(voice: Synthesizer, batch: int) -> list[Tensor]:
    """The codes of `TEXT`, spoken by several rows in the same way."""
    units, speaker = voice.read(TEXT)[0].units, voice.speaker_id(None)
    speakers = None if speaker is None else [speaker] * batch
    return speak_codes(voice.talker, [units] * batch, speakers=speakers, numbers=[0] * batch)


def build_synthesizer(size: str, vocoder: str, device: str) -> Synthesizer:
    """An untrained Talker, codec and vocoder; see `SpeechRace`.

    Raises:
        UserError: If there is no such size, or the parts do not fit together.
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
    whole, rest = divmod(_CHARACTERS_PER_SECOND / talker.frame_rate, 1)
    shares = torch.zeros(MAX_ADVANCE + 2)
    shares[int(whole)], shares[int(whole) + 1] = 1 - rest, rest
    with torch.no_grad():
        talker.advance.weight.zero_()
        talker.advance.bias.copy_(shares[: MAX_ADVANCE + 1].clamp(min=1e-9).log())
    talker.transpose_weights_for_decoding()
    units = CharacterVocabulary()
    if talker.vocab_size != units.vocab_size:
        raise UserError(
            f"vocab_size of {folder}/talker.yaml must be {units.vocab_size}, the number of English characters"
        )
    return Synthesizer(talker, codec, _vocoder(vocoder, codec.num_mels), units, device=resolve(device))


def _vocoder(name: str, num_mels: int) -> torch.nn.Module:
    path = Path(name)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return load_vocoder(name, num_mels)
    options = yaml.safe_load(path.read_text(encoding="utf-8"))
    named = "class_path" in options
    return build(options if named else {"class_path": VOCOS, "init_args": options}).eval()


def _first_sound(voice: Synthesizer, trials: int) -> list[Delay]:
    """Delay of the first samples after a text, by step."""
    spent: dict[str, list[float]] = {}
    for trial in range(trials + 2):
        steps = _steps(voice, trial)
        steps["from the text to the first samples"] = race.seconds(lambda: next(voice.stream(TEXT)))
        for step, time in steps.items() if trial > 1 else ():  # two to warm up
            spent.setdefault(step, []).append(1000 * time)
    quantiles = {
        step: torch.tensor(times).quantile(torch.tensor([0.5, 0.95])).tolist() for step, times in spent.items()
    }
    return [Delay(step, *values) for step, values in quantiles.items()]


def _steps(voice: Synthesizer, trial: int) -> dict[str, float]:
    """Seconds of each step of the first frame."""
    talker, codec, vocoder = voice.talker, voice.codec, voice.vocoder
    device, units = talker.start.device, voice.read(TEXT)[0].units
    speaker = voice.speaker_id(None)
    text, times = torch.tensor([units], device=device), {}
    voices = None if speaker is None else torch.tensor([speaker], device=device)

    def timed(step: str, work: Callable[[], Tensor]) -> Tensor:
        result = []
        times[step] = race.seconds(lambda: result.append(work()))
        return result[0]

    lengths, place = torch.tensor([len(units)], device=device), torch.zeros(1, 1, dtype=torch.long, device=device)
    encoded = timed("text encoder", lambda: talker.encode_text(text, lengths, speakers=voices))
    cache = talker.new_cache(1, 256)
    state = timed("first frame", lambda: talker.frame(None, gather(encoded, place)[:, 0], cache))
    draw = [Random(trial)]
    codes = timed("depth module", lambda: choose_frame(talker, state, SpeechSampling(), draw)[0])
    mels = timed("codec", lambda: codec.decode(codes[:, None]))
    timed("vocoder, one frame", lambda: vocoder(mels))
    return times
