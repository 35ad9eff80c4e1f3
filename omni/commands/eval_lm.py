"""`omni eval lm`: the weights of a language model that give a recogniser the fewest word errors."""

import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from omni.data.speech.manifests import Utterance
from omni.data.speech.opening import open_utterances
from omni.decoding.fusion import Fusion
from omni.decoding.fusion_options import open_lm, surfaces_of
from omni.errors import UserError
from omni.evaluation.hypotheses import References
from omni.evaluation.word_errors import Row, count_errors
from omni.inference.long_form import ChunkEmission
from omni.inference.recognizer import Recognizer, load_recognizer

LM_WEIGHTS = (0.25, 0.5, 0.75, 1.0)
WORD_BONUSES = (0.0, 1.0, 2.0, 3.0)

_Emissions = Mapping[int, Sequence[ChunkEmission]]


class _Grid(NamedTuple):
    """Word error rates: without a language model, and by its weight and the word bonus."""

    without: float
    rates: dict[tuple[float, float], float]

    @property
    def best(self) -> tuple[float, float]:
        """The pair of the lowest rate; of equal ones the smallest."""
        return min(self.rates, key=lambda pair: (self.rates[pair], pair))


def evaluate_lm(
    checkpoint: str,
    lm: Path,
    rows: str,
    *,
    lm_weights: list[float] | None = None,
    word_bonuses: list[float] | None = None,
    beam: int = 8,
    text_column: str = "text",
    device: str = "auto",
) -> None:
    """Choose the weights of a language model by word errors.

    The recordings are encoded once and searched with each pair of weights. The best pair is chosen on these rows: give
    rows that are neither trained on nor reported, and report `omni eval wer` with the pair on others.

    Example:
        omni eval lm --checkpoint lightning_logs/audio/best.ckpt --lm lm.arpa --rows val.jsonl

    Args:
        checkpoint: A checkpoint that holds an audio encoder, such as lightning_logs/audio/best.ckpt.
        lm: A language model in ARPA format (.arpa, .gz).
        rows: A manifest (.jsonl, .csv), or a folder of LibriSpeech or LJSpeech.
        lm_weights: Weights to try; by default 0.25, 0.5, 0.75 and 1.
        word_bonuses: Bonuses for each word to try, in nats; by default 0 to 3.
        beam: Beam size, 2 or more.
        text_column: Column of the reference texts.
        device: cpu, cuda, or auto.

    Raises:
        UserError: If something cannot be read, a row has no text, or an option is out of range.
    """
    pairs = list(product(sorted({*(lm_weights or LM_WEIGHTS)}), sorted({*(word_bonuses or WORD_BONUSES)})))
    if beam < 2:
        raise UserError(f"beam is {beam}: a language model chooses between texts, give a beam of 2 or more")
    if (least := min(weight for weight, _ in pairs)) < 0:
        raise UserError(f"lm_weights has {least:g}: weights must be 0 or more")
    recognizer = load_recognizer(checkpoint, device=device, beam=beam)
    model = open_lm(lm, recognizer.units)
    (source,) = open_utterances([rows], text_column=text_column, split="val")
    references = References.of(source)
    normalize, unreadable = recognizer.units.normalize, dict(references.malformed)
    scored = {number: row for number, row in references.utterances.items() if normalize(row.text)}
    emissions = _emissions(recognizer, references, scored, unreadable)
    if not emissions:
        raise next(iter(unreadable.values()), UserError(f"{rows} has no rows with text: there is nothing to score"))
    fit = model.perplexity(normalize(scored[number].text).split() for number in emissions)
    print(f"{rows}: {len(emissions):,} utterances, {fit.words:,} words, {fit.unknown / fit.words:.1%} of them unknown")
    print(f"{lm}: perplexity {fit.value:,.1f}; beam {beam}\n")
    surfaces = surfaces_of(recognizer.units)
    fusions = {pair: Fusion(surfaces, model, lm_weight=pair[0], word_bonus=pair[1]) for pair in pairs}
    found = _search(recognizer, emissions, scored, fusions)
    print(_table(found))
    weight, bonus = found.best
    print(f"\nbest: --lm_weight {weight:g} --word_bonus {bonus:g}, WER {found.rates[found.best]:.2%}")
    for number in sorted(unreadable):
        print(f"omni: {unreadable[number]}", file=sys.stderr)
    if unreadable:
        raise SystemExit(2)


def _emissions(
    recognizer: Recognizer, references: References, scored: Mapping[int, Utterance], unreadable: dict[int, UserError]
) -> _Emissions:
    """Outputs of the CTC head for each utterance; those that cannot be read are added to `unreadable`."""
    audio = {}
    for number, row in scored.items():
        try:
            audio[number] = references.source.audio(number, row)
        except UserError as error:
            unreadable[number] = error
    numbers, found = list(audio), {number: [] for number in audio}
    with tqdm(total=len(audio), desc="encoding", leave=False, disable=None) as bar:
        for index, chunk in recognizer.emissions(list(audio.values())):
            if isinstance(chunk, UserError):
                unreadable[numbers[index]] = chunk
                del found[numbers[index]]
            else:
                found[numbers[index]].append(chunk)
                bar.update(chunk.last)
    return found


def _search(
    recognizer: Recognizer,
    emissions: _Emissions,
    scored: Mapping[int, Utterance],
    fusions: Mapping[tuple[float, float], Fusion],
) -> _Grid:
    def rate(fusion: Fusion | None, normalize: Callable[[str], str]) -> float:
        rows = []
        for number, chunks in emissions.items():
            merger = recognizer.merger(fusion=fusion)
            for chunk in chunks:
                merger.add(chunk.log_probs, chunk.new_seconds)
            row = scored[number]
            rows.append(Row(row.where, row.speaker, normalize(row.text), normalize(merger.finish().text)))
        return count_errors(rows).wer

    normalize = recognizer.units.normalize
    without = rate(None, normalize)
    steps = tqdm(fusions.items(), desc="searching", leave=False, disable=None)
    return _Grid(without, {pair: rate(fusion, normalize) for pair, fusion in steps})


def _table(grid: _Grid) -> str:
    """A row for each weight, a column for each bonus."""
    weights, bonuses = (sorted(set(values)) for values in zip(*grid.rates, strict=True))
    lines = [f"WER without a language model: {grid.without:.2%}", ""]
    lines.append("lm_weight \\ word_bonus" + "".join(f"{bonus:>9g}" for bonus in bonuses))
    for weight in weights:
        rates = "".join(f"{grid.rates[weight, bonus]:9.2%}" for bonus in bonuses)
        lines.append(f"{weight:>22g}{rates}")
    return "\n".join(lines)
