"""The JavaScript of an exported page, run in a browser and compared with the Python that it repeats."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tones
from page_fixtures import NEEDS_BROWSER, chromium, speech_file  # noqa: F401  fixtures
from static_host import hosted

import omni.export
from omni.export.web import tokenizer_state
from omni.media.audio import LogMel
from omni.media.images import Preprocessing, to_pixels
from omni.media.mel_scale import mel_constants
from omni.media.trimming import trimmed
from omni.text.chat_template import encode_chat
from omni.text.ctc_vocabulary import CharacterVocabulary
from omni.text.media_positions import MediaLayout, expand_placeholders
from omni.text.normalization import TextNormalization
from omni.text.sentencepiece_training import train_sentencepiece
from omni.text.tokenizer import ByteTokenizer

pytestmark = NEEDS_BROWSER
MODULES = Path(omni.export.__file__).parent / "web_page"
WORDS = "The small red circle is above the blue square. How many green triangles are there? Two, or three at most.\n"
TEXTS = [
    "",
    " ",
    "the red circle",
    "  The  small\tred\ncircle ▁ is above, the 12 blue squares.\r\n",
    "naïve café — “green” triangles 🙂 日本",
    "thethethe redredred circlecircle",
]


@pytest.fixture(scope="module", name="run")
def evaluator(browser):
    """Evaluates an expression with the exported modules, such as `audio.joined(given)`, on plain data."""
    page = browser.new_page()

    def run(expression, given=None):
        names = [path.stem for path in MODULES.glob("*.js") if f"{path.stem}." in expression]
        load = "; ".join(f"const {name} = await import('/{name}.js')" for name in names)
        plain = "value => JSON.stringify(value, (_, one) => ArrayBuffer.isView(one) ? Array.from(one) : one)"
        return json.loads(page.evaluate(f"async given => {{ {load}; return ({plain})({expression}) }}", given))

    with hosted(MODULES) as address:
        page.goto(f"{address}/audio.js")
        yield run
    page.close()


@pytest.mark.parametrize("num_mels", [80, 128])
@pytest.mark.parametrize("length", [16_000, 333, 1])
def test_the_spectrogram_is_that_of_training(run, num_mels, length):
    noise = 0.1 * torch.randn(length, generator=torch.Generator().manual_seed(length))
    samples = (torch.as_tensor(tones("ab"))[:length].float() + noise[: len(tones("ab"))]).clamp(-1, 1)
    constants = {**mel_constants(), "num_mels": num_mels}
    given = {"constants": constants, "samples": samples.tolist()}
    found = run("new audio.LogMel(given.constants).compute(Float32Array.from(given.samples))", given)
    expected = LogMel(num_mels)(samples)
    assert found["frames"] == len(expected)
    assert np.abs(np.reshape(found["data"], expected.shape) - expected.numpy()).max() < 1e-3


TRIM = """given.parts.reduce((state, part) => {
    state.parts.push(state.trimmer.push(Float32Array.from(part)));
    return state;
}, {trimmer: new audio.Trimmer(given.rate), parts: []})"""


@pytest.mark.parametrize("quiet", [(0, 0), (1000, 700), (5000, 5001)])
@pytest.mark.parametrize(("size", "rate"), [(100_000, 16_000), (999, 16_000), (999, 24_000)])
def test_silence_is_trimmed_from_a_stream(run, quiet, size, rate):
    loud = 1.2 * torch.as_tensor(tones("a")).float()
    samples = torch.cat((torch.zeros(quiet[0]), loud[:3333], torch.zeros(quiet[1])))
    found = run(
        f"audio.joined((({{trimmer, parts}}) => [...parts, trimmer.finish()])({TRIM}))", parts(samples, size, rate)
    )
    np.testing.assert_allclose(found, trimmed(samples.numpy(), rate), atol=1e-5, rtol=0)


def test_silence_alone_has_no_sound(run):
    assert (
        run(f"(({{trimmer, parts}}) => [...parts, trimmer.finish()])({TRIM})", parts(torch.zeros(1000), 300))[-1] == []
    )


def parts(samples, size, rate=16_000):
    return {"parts": [part.tolist() for part in samples.split(size)], "rate": rate}


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize(("width", "height"), [(64, 64), (100, 75), (33, 250), (20, 17), (200, 199)])
def test_images_are_prepared_as_for_training(run, fit, width, height):
    generator = torch.Generator().manual_seed(width)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    rgba = torch.cat((image, torch.full((1, height, width), 255, dtype=torch.uint8))).permute(1, 2, 0).flatten()
    given = {"rgba": rgba.tolist(), "width": width, "height": height, "options": {"size": 64, "fit": fit}}
    found = run("image.preprocessed(image.planes(given.rgba, given.width, given.height), given.options)", given)
    expected = to_pixels(Preprocessing(64, fit)(image)[None])[0].numpy()
    assert np.abs(np.reshape(found, expected.shape) - expected).max() < 1e-3


@pytest.fixture(scope="module", params=["bytes", "sentencepiece"])
def tokenizer(request):
    return ByteTokenizer() if request.param == "bytes" else train_sentencepiece([WORDS] * 20, vocab_size=350)


def test_texts_have_the_same_tokens(run, tokenizer):
    state = tokenizer_state(tokenizer)
    for text in TEXTS:
        given = {"state": state, "text": text, "tokens": tokenizer.encode(text)}
        assert run("new text.Tokenizer(given.state).encode(given.text)", given) == given["tokens"]
        assert run("new text.Tokenizer(given.state).decode(given.tokens)", given) == text
        assert run("new text.Tokenizer(given.state).decodeTurn(given.tokens)", given) == text.removeprefix(
            tokenizer.lead
        )


def test_conversations_have_the_same_tokens_and_positions(run, tokenizer):
    layout = MediaLayout(image_grid=(3, 4), mel_frames=8)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image"}, {"type": "audio"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "A circle"},
        {"role": "user", "content": [{"type": "text", "text": "two "}, {"type": "text", "text": "parts"}]},
    ]
    spans = [layout.image(), layout.audio(101)]
    expected = expand_placeholders(encode_chat(tokenizer, messages, add_generation_prompt=True), spans)
    shown = json.loads(json.dumps(messages))
    shown[1]["content"][0]["span"] = run("text.imageSpan([3, 4])")
    shown[1]["content"][1]["span"] = run("text.audioSpan(101, 8)")
    given = {"state": tokenizer_state(tokenizer), "messages": shown}
    found = run("text.encodeChat(new text.Tokenizer(given.state), given.messages)", given)
    assert found["tokens"] == expected.tokens.tolist()
    torch.testing.assert_close(torch.tensor(found["positions"]).T.float(), expected.positions)


@pytest.mark.parametrize("normalization", [TextNormalization(), TextNormalization("upper", "keep", "keep")])
def test_speech_is_spelled_as_for_the_talker(run, normalization):
    letters = " 'abcdefghijklmnopqrstuvwxyz" if normalization.case == "lower" else " ',.?ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    vocabulary = CharacterVocabulary(letters, normalization)
    texts = ["It's 5 o'clock, isn't it?", "'Quoted' — words & more", "0, 13, 21, 100, 219 and 999", "a\u200bb  c"]
    for text in texts if normalization.digits == "spell" else ["It's five, isn't it?"]:
        given = {"state": vocabulary.state(), "text": text}
        assert run("new text.Characters(given.state).encode(given.text)", given) == vocabulary.encode(text)
        given["units"] = [0, *vocabulary.encode(text), 0]
        assert run("new text.Characters(given.state).decode(given.units)", given) == vocabulary.normalize(text)


def test_numbers_are_spelled_as_for_the_talker(run):
    generator = random.Random(0)
    lengths = [*range(1, 37), 37, 60]
    numbers = ["".join(generator.choices("0012345678", k=length)) for length in lengths for _ in range(3)]
    numbers += [*map(str, range(130)), "1000", "1001", "1100", "1" + 33 * "0", "007", "00"]
    numbers += [f"{whole}.{decimals}" for whole, decimals in zip(numbers[:20], numbers[7:27], strict=True)]
    numbers += [f"{number}{end}" for number in numbers for end in ("st", "TH")]
    texts = [*numbers, *(f"{number}x" for number in numbers), *(f"{int(number):,}" for number in numbers[:60])]
    texts += ["1,234,567th of 10,00 or 12,3456", "1.2.3", "3.5thx", "the 2nd. 3rd, 4th-grade", "5km 5é 5_", "x12nd"]
    vocabulary = CharacterVocabulary()
    given = {"state": vocabulary.state(), "texts": texts}
    found = run("given.texts.map(one => new text.Characters(given.state).normalize(one))", given)
    assert len(set(found)) > 300
    for text, words in zip(texts, found, strict=True):
        assert words == vocabulary.normalize(text), text
