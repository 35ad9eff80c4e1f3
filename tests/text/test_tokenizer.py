"""Text survives the tokenizers unchanged, streamed or whole, stored or fresh; the chat template scores the answers."""

import io
import os
import pickle
import random
import subprocess
import sys

import pytest
import sentencepiece
import torch

from omni.errors import UserError
from omni.text import sentencepiece_training
from omni.text import tokenizer as t
from omni.text.chat_template import encode_chat
from omni.text.sentencepiece_training import train_sentencepiece
from omni.text.stream_decoder import StreamDecoder
from omni.text.tokenizer import ByteTokenizer, SentencePieceTokenizer, Tokenizer

NASTY = [
    "",
    " ",
    "    ",
    " leading, trailing and   several spaces  ",
    "\ttabs\t\tand\n\nlines\r\nof\rall\n kinds \n",
    "\x00NUL\x00\x00",
    "▁",
    "▁the ▁ mark▁▁ itself ▁",
    "▁\n▁",
    "😀 👩‍👩‍👧‍👦 🇩🇪",
    "A\u030a Å e\u0301 é ﬁ Ａ ½ ①",
    "日本語 العربية हिन्दी Ελληνικά עברית",
    "\ufeffa BOM\ufeff",
    "\ufffd \u200b\u00a0\u3000\u2028\x85 \x7f\x1b",
    "".join(t.SPECIALS),
    "<s> </s> <unk> <pad> <0x41> <0xE2>",
    "1234567890 3.14",
    "\U0010ffff\ue000",
    "the " * 3000 + "x" * 5000,
]


def make_corpus(num_texts: int = 120, seed: int = 0) -> list[str]:
    generator = random.Random(seed)
    letters = "aaabcdeeeefghiiijklmnooopqrstttuvwxyzÅ\u030aﬁ日本"
    words = ["".join(generator.choices(letters, k=generator.randint(1, 8))) for _ in range(200)] + ["the", "12", "▁"]
    return [
        "  ".join(" ".join(generator.choices(words, k=generator.randint(1, 12))) for _ in range(3)) + "\n\tend\r\n"
        for _ in range(num_texts)
    ]


def random_texts(num_texts: int, seed: int = 0) -> list[str]:
    """Any code points except surrogates, with difficult ones often."""
    generator = random.Random(seed)
    ranges = [(0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF)]
    often = [" ", "  ", "\n", "\r\n", "\t", "\0", "▁", "the", "\u0301", "\ufeff", "\ufffd", "<|user|>"]

    def character() -> str:
        if generator.random() < 0.4:
            return generator.choice(often)
        return chr(generator.randint(*generator.choice(ranges)))

    return ["".join(character() for _ in range(generator.randint(0, 40))) for _ in range(num_texts)]


def train_raw(**changes) -> bytes:
    """A SentencePiece model with omni's layout, except for `changes`."""
    model = io.BytesIO()
    options = {
        "model_type": "bpe",
        "vocab_size": 330,
        "byte_fallback": True,
        "pad_id": t.PAD,
        "bos_id": t.BOS,
        "eos_id": t.EOS,
        "unk_id": t.UNK,
        "pad_piece": "<|pad|>",
        "bos_piece": "<|bos|>",
        "eos_piece": "<|eos|>",
        "unk_piece": "<|unk|>",
        "control_symbols": list(t.SPECIALS[4:]),
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "minloglevel": 2,
    }
    lines = iter(["the cat sat on the mat and the dog ran over the hill to see a fox"] * 3)
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=model, **(options | changes))
    return model.getvalue()


@pytest.fixture(scope="module")
def learned() -> SentencePieceTokenizer:
    return train_sentencepiece(make_corpus(), vocab_size=500)


@pytest.fixture(params=["bytes", "sentencepiece"])
def tokenizer(request, learned) -> Tokenizer:
    return ByteTokenizer() if request.param == "bytes" else learned


@pytest.mark.parametrize("text", NASTY)
def test_difficult_text_survives(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_random_text_survives(tokenizer):
    texts = random_texts(500)
    assert [tokenizer.decode(tokens) for tokens in tokenizer.encode_batch(texts)] == texts


def test_text_survives_a_corpus_without_spaces():
    tokenizer = train_sentencepiece(["日本語の文章日本語日本の文"], vocab_size=300)
    assert [tokenizer.decode(tokens) for tokens in tokenizer.encode_batch(NASTY)] == NASTY


def test_batch_equals_single(tokenizer):
    texts = [*NASTY, *random_texts(50, seed=1)]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch([]) == []


def test_text_never_gives_special_tokens(tokenizer):
    for text in [*t.SPECIALS, "".join(t.SPECIALS), "a<|end|>b", *random_texts(200, seed=2)]:
        assert all(token >= t.NUM_SPECIALS for token in tokenizer.encode(text)), text


def test_token_bytes_count_the_utf8(tokenizer):
    sizes = tokenizer.token_bytes()
    assert len(sizes) == tokenizer.vocab_size
    assert sizes[: t.NUM_SPECIALS] == [0] * t.NUM_SPECIALS
    for text in [*NASTY, *random_texts(100, seed=3)]:
        assert sum(sizes[token] for token in tokenizer.encode(text)) == len(text.encode())


def test_pieces_shorten_and_line_ends_are_one_token(learned):
    text = make_corpus(1)[0]
    assert len(learned.encode(text)) < 0.7 * len(ByteTokenizer().encode(text))
    assert learned.encode("\n") == ByteTokenizer().encode("\n") == [t.NUM_SPECIALS + 10]
    assert learned.encode("the") == learned.encode("\nthe")[1:]


def test_digits_stay_apart_and_indentation_is_one_token():
    tokenizer = train_sentencepiece(["def f1999(x):\n        return 1999 + x1999\n"] * 9, vocab_size=320)
    assert len(tokenizer.encode("1999")) == 4
    assert len(tokenizer.encode("        return")) <= 2


def test_streamed_equals_whole(tokenizer):
    generator = random.Random(4)
    streams = [tokenizer.encode(text) for text in [*NASTY[:-1], *random_texts(100, seed=5)]]
    for tokens in streams[:]:  # cut anywhere, also within a character, with arbitrary ids inserted
        cut = generator.randint(0, len(tokens))
        streams += [tokens[:cut], tokens[cut:] + tokens[:cut], [*tokens[:cut], t.END, *tokens[cut:]]]
    streams += [[generator.randrange(min(tokenizer.vocab_size, 288)) for _ in range(30)] for _ in range(300)]
    for tokens in streams:
        stream = StreamDecoder(tokenizer)
        pushed = [stream.push(token) for token in tokens]
        assert "".join(pushed) + stream.finish() == tokenizer.decode(tokens)


def test_stream_holds_back_half_a_character(tokenizer):
    stream = StreamDecoder(tokenizer)
    assert [stream.push(token) for token in ByteTokenizer().encode("é😀")] == ["", "é", "", "", "", "😀"]
    assert [stream.push(token) for token in ByteTokenizer().encode("😀")[:3]] == ["", "", ""]
    assert stream.finish() == "\ufffd"
    assert stream.push(ByteTokenizer().encode("a")[0]) == "a"  # ready for the next text


def test_decode_skips_or_names_special_tokens(tokenizer):
    tokens = [t.BOS, t.USER, *tokenizer.encode(" hi"), t.END, t.PAD]
    assert tokenizer.decode(tokens) == " hi"
    assert tokenizer.decode(tokens, skip_specials=False) == "<|bos|><|user|> hi<|end|><|pad|>"
    assert tokenizer.decode([t.NUM_SPECIALS + 0xFF, t.NUM_SPECIALS + 0x41]) == "\ufffdA"


@pytest.mark.parametrize("token", [-1, -100, 10**6])
def test_foreign_token_is_refused(tokenizer, token):
    with pytest.raises(UserError, match=rf"token {token} is outside .* 0\.\.{tokenizer.vocab_size - 1}:"):
        tokenizer.decode([token])
    with pytest.raises(UserError, match=f"token {token} is outside"):
        StreamDecoder(tokenizer).push(token)


def test_lone_surrogate_is_refused(tokenizer):
    with pytest.raises(UserError, match=r"character 2 .*U\+D800"):
        tokenizer.encode("ab\ud800")
    with pytest.raises(UserError, match=r"U\+DC80"):
        tokenizer.encode_batch(["fine", "\udc80"])


def test_state_survives_a_checkpoint_and_a_pickle(tokenizer):
    file = io.BytesIO()
    torch.save({"tokenizer": tokenizer.state()}, file)
    file.seek(0)
    stored = Tokenizer.from_state(torch.load(file, weights_only=True)["tokenizer"])
    for copy in (stored, pickle.loads(pickle.dumps(tokenizer))):
        assert type(copy) is type(tokenizer)
        assert copy.fingerprint == tokenizer.fingerprint
        assert copy.encode_batch(NASTY) == tokenizer.encode_batch(NASTY)


@pytest.mark.parametrize("state", [{}, {"kind": "wordpiece"}, {"kind": "sentencepiece"}])
def test_unknown_state_is_refused(state):
    with pytest.raises(UserError, match="neither bytes nor sentencepiece"):
        Tokenizer.from_state(state)


def test_training_is_deterministic_and_fingerprints_differ(learned):
    again = train_sentencepiece(iter(make_corpus()), vocab_size=500)
    assert again.state() == learned.state()
    other = train_sentencepiece(make_corpus(seed=1), vocab_size=500)
    assert len({again.fingerprint, other.fingerprint, ByteTokenizer().fingerprint}) == 3
    twins = [train_sentencepiece([text], vocab_size=300) for text in ("abc abd abe abf", "xyz xyu xyv xyw")]
    assert len({twin.fingerprint for twin in twins}) == len({len(twin.state()["model"]) for twin in twins}) + 1 == 2
    assert len(learned.fingerprint) == 64
    assert learned.vocab_size == 500


def test_training_uses_long_documents_and_stops_at_max_bytes():
    long = ["start " + "zebra quagga okapi " * 1000, "x" * 3000 + "日" * 3000]
    tokenizer = train_sentencepiece(long, vocab_size=330)
    assert tokenizer.encode(" quagga")[1:] == []  # one piece: the document was not dropped
    assert list(sentencepiece_training._training_lines(long, 10**9))[-1] == "日" * (6000 % 1024)
    assert "".join(sentencepiece_training._training_lines(long, 10**9)) == "".join(long)
    assert max(len(line.encode()) for line in sentencepiece_training._training_lines(long, 10**9)) <= 4 * 1024
    assert all(
        line[0] == " " for line in list(sentencepiece_training._training_lines(long[:1], 10**9))[1:]
    )  # words stay whole
    first = list(sentencepiece_training._training_lines(["one two", "three"], max_bytes=7))
    assert first == ["one two"]
    assert list(sentencepiece_training._training_lines(["a\r\n\n  \nb▁c \0\n"], 100)) == ["a", "b", "c \0"]


def test_training_is_silent(capfd):
    train_sentencepiece(make_corpus(), vocab_size=400)
    assert capfd.readouterr() == ("", "")


def test_too_small_corpus_names_the_largest_vocabulary():
    with pytest.raises(UserError, match=r"too small for vocab_size 9000: use at most \d+") as error:
        train_sentencepiece(make_corpus(10), vocab_size=9000)
    largest = int(str(error.value).split("at most ")[1].split(",")[0])
    assert train_sentencepiece(make_corpus(10), vocab_size=largest).vocab_size == largest


def test_too_small_vocabulary_names_the_smallest():
    corpus = ["".join(map(chr, range(0x4E00, 0x4E40))) * 2]
    with pytest.raises(UserError, match=r"use at least \d+") as error:
        train_sentencepiece(corpus, vocab_size=300)
    least = int(str(error.value).split("at least ")[1])
    assert train_sentencepiece(corpus, vocab_size=least).vocab_size == least
    with pytest.raises(UserError, match="use more than 288"):
        train_sentencepiece(corpus, vocab_size=288)


@pytest.mark.parametrize("corpus", [[], [""], ["\n\n", "  ", "▁▁\t"], ["\0\0"]])
def test_empty_corpus_is_refused(corpus):
    with pytest.raises(UserError, match="has no text"):
        train_sentencepiece(corpus, vocab_size=400)


def test_surrogate_in_the_corpus_is_refused():
    with pytest.raises(UserError, match="document 1 is a lone surrogate"):
        train_sentencepiece(["fine", "\ud800"], vocab_size=400)


def test_a_file_is_read_back_and_replaced_completely(learned, tmp_path, monkeypatch):
    path = tmp_path / "new" / "text.model"
    learned.save(path)
    assert t.open_tokenizer(path).fingerprint == learned.fingerprint
    assert os.listdir(path.parent) == ["text.model"]

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match=r"text\.model cannot be written \(No space left"):
        train_sentencepiece(make_corpus(), vocab_size=400).save(path)
    assert path.read_bytes() == learned.state()["model"]
    assert os.listdir(path.parent) == ["text.model"]


def test_open_tokenizer(learned, tmp_path):
    assert isinstance(t.open_tokenizer("bytes"), ByteTokenizer)
    learned.save(tmp_path / "a.model")
    assert isinstance(t.open_tokenizer(str(tmp_path / "a.model")), SentencePieceTokenizer)
    with pytest.raises(UserError, match="'words' is unknown"):
        t.open_tokenizer("words")


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"none\.model cannot be read .*omni data tokenizer"):
        t.open_tokenizer(tmp_path / "none.model")
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)"):
        SentencePieceTokenizer.from_file(tmp_path)


@pytest.mark.parametrize("damage", [lambda _: b"", lambda _: b"no model", lambda model: model[:-9]])
def test_damaged_file_is_refused(learned, tmp_path, damage, capfd):
    path = tmp_path / "a.model"
    path.write_bytes(damage(learned.state()["model"]))
    with pytest.raises(UserError, match=r"a\.model is not a SentencePiece model: .*omni data tokenizer"):
        t.open_tokenizer(path)
    assert capfd.readouterr() == ("", "")


SHUFFLED = [t.SPECIALS[5], t.SPECIALS[4], *t.SPECIALS[6:]]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"vocab_size": 40, "byte_fallback": False, "control_symbols": []}, "40 ids, fewer"),
        ({"pad_id": 3, "unk_id": 0}, "unknown id is 0"),
        ({"pad_piece": "<pad>"}, "id 0 is '<pad>'"),
        ({"control_symbols": SHUFFLED}, r"id 4 is '<\|user\|>'"),
        ({"control_symbols": [], "user_defined_symbols": list(t.SPECIALS[4:])}, "text can produce it"),
        ({"control_symbols": [*t.SPECIALS[4:], "<|more|>"]}, "are not the bytes"),
        ({"add_dummy_prefix": True}, "normalises"),
        ({"remove_extra_whitespaces": True}, "normalises"),
        ({"normalization_rule_name": "nmt_nfkc"}, "normalises"),
    ],
)
def test_model_of_another_layout_is_refused(tmp_path, changes, fault):
    path = tmp_path / "a.model"
    path.write_bytes(train_raw(**changes))
    with pytest.raises(UserError, match=rf"a\.model is not an omni tokenizer \(.*{fault}.*omni data tokenizer"):
        t.open_tokenizer(path)


def test_spares_can_be_named_later(monkeypatch):
    model = train_raw()
    monkeypatch.setattr(t, "SPECIALS", (*t.SPECIALS[:18], "<|new|>", *t.SPECIALS[19:]))
    assert SentencePieceTokenizer(model).decode([18], skip_specials=False) == "<|new|>"


def test_names_of_special_tokens():
    names = "PAD BOS EOS UNK SYSTEM USER ASSISTANT END IMAGE IMAGE_START IMAGE_END VIDEO_START VIDEO_END"
    names += " AUDIO AUDIO_START AUDIO_END SPEECH_START SPEECH_END"
    for position, name in enumerate(names.split()):  # checkpoints contain these ids: they never change
        assert getattr(t, name) == position
        assert t.SPECIALS[position] == f"<|{name.lower()}|>"
    assert len(set(t.SPECIALS)) == len(t.SPECIALS) == 32


def test_chat_layout_and_mask(tokenizer):
    chat = encode_chat(
        tokenizer,
        [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is <|end|> it?"}]},
            {"role": "assistant", "content": "a cat"},
            {"role": "user", "content": ""},
            {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": " dog"}]},
        ],
    )
    lead = tokenizer.lead
    expected = [
        ([t.BOS, t.SYSTEM, *tokenizer.encode(f"{lead}be brief"), t.END], False),
        ([t.USER, t.IMAGE_START, t.IMAGE, t.IMAGE_END, *tokenizer.encode(f"{lead}what is <|end|> it?"), t.END], False),
        ([t.ASSISTANT], False),
        ([*tokenizer.encode(f"{lead}a cat"), t.END], True),
        ([t.USER, t.END], False),
        ([t.ASSISTANT], False),
        ([*tokenizer.encode(f"{lead}a"), *tokenizer.encode(" dog"), t.END], True),
    ]
    assert chat.tokens == [token for tokens, _ in expected for token in tokens]
    assert chat.scored == [scored for tokens, scored in expected for _ in tokens]


def test_the_generation_prompt_is_a_prefix_of_the_conversation(tokenizer):
    question = [{"role": "user", "content": "hi"}]
    prompt = encode_chat(tokenizer, question, add_generation_prompt=True)
    whole = encode_chat(tokenizer, [*question, {"role": "assistant", "content": "ho"}])
    assert whole.tokens == [*prompt.tokens, *tokenizer.encode(f"{tokenizer.lead}ho"), t.END]
    assert not any(prompt.scored)
    assert len(prompt.scored) == len(prompt.tokens)
    assert encode_chat(tokenizer, question).tokens == prompt.tokens[:-1]


def test_a_word_is_the_same_token_as_a_whole_answer_and_inside_a_text(learned):
    inside = learned.encode("of the")[len(learned.encode("of")) :]
    chat = encode_chat(learned, [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "the"}])
    assert chat.tokens[-1 - len(inside) :] == [*inside, t.END]
    assert learned.encode("the") != inside
    stream = StreamDecoder(learned, turn=True)  # one for all: it is ready for the next text each time
    for text in ["the", " the", "", "é"]:
        tokens = learned.encode(learned.lead + text)
        assert "".join([*map(stream.push, tokens), stream.finish()]) == learned.decode_turn(tokens) == text


def test_media_are_one_placeholder_between_start_and_end_tokens():
    parts = [{"type": "image"}, {"type": "audio", "audio": "a.wav"}, {"type": "video"}]
    chat = encode_chat(ByteTokenizer(), [{"role": "user", "content": parts}])
    expected = [t.IMAGE_START, t.IMAGE, t.IMAGE_END, t.AUDIO_START, t.AUDIO, t.AUDIO_END]
    expected += [t.VIDEO_START, t.IMAGE, t.VIDEO_END]
    assert chat.tokens == [t.BOS, t.USER, *expected, t.END]


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ({"role": "robot", "content": "x"}, "message 1: role 'robot' is unknown"),
        ({"content": "x"}, "message 1: role None is unknown"),
        ({"role": ["user"], "content": "x"}, r"message 1: role \['user'\] is unknown"),
        ("hi", "message 1: role None is unknown"),
        ({"role": "user"}, "message 1: content is a NoneType"),
        ({"role": "user", "content": {"type": "text"}}, "message 1: content is a dict"),
        ({"role": "user", "content": [{"type": "smell"}]}, "message 1: part type 'smell' is unknown"),
        ({"role": "user", "content": ["hi"]}, "message 1: part type 'hi' is unknown"),
        ({"role": "user", "content": [{"type": "text"}]}, "message 1: a text part has no text"),
        ({"role": "user", "content": [{"type": "text", "text": 3}]}, "message 1: a text part has no text"),
        ({"role": "assistant", "content": [{"type": "image"}]}, "message 1: the assistant's turn holds 'image'"),
        ({"role": "user", "content": "\ud800"}, "character 0 of message 1 is a lone surrogate"),
    ],
)
def test_wrong_message_is_refused(message, fault):
    with pytest.raises(UserError, match=fault):
        encode_chat(ByteTokenizer(), [{"role": "user", "content": "fine"}, message])


def test_empty_conversation_is_refused():
    with pytest.raises(UserError, match="no messages"):
        encode_chat(ByteTokenizer(), [])


def test_import_is_light():
    code = "import sys, omni.text.tokenizer; print([m for m in ('torch', 'lightning', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
