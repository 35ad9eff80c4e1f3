"""The tokenizer of a pretrained language model, with the interface of our own.

Ids are the tokenizer's own plus `NUM_SPECIALS`: the first ids are omni's special tokens, such as the placeholders of
media. The model never reads these, so no row is added to its embedding.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, final

from omni.errors import UserError
from omni.text.tokenizer import NUM_SPECIALS, ChatPiece, Tokenizer, Turn, check_text

PRETRAINED = "pretrained:"  # prefix of a setting that names such a tokenizer
_SLOT = re.compile("\ue000(\\d+)\ue001")  # private-use characters: mark a turn's content in a template
_BYTE = re.compile("<0x([0-9A-F]{2})>")


@final
class PretrainedTokenizer(Tokenizer):
    """A tokenizer of `transformers`. Names of special tokens in a text are plain text, as in ours.

    Args:
        source: Name on the Hub, OWNER/NAME or OWNER/NAME@REVISION, or a folder from `save_pretrained`.

    Raises:
        UserError: If it cannot be loaded, or has no fast version in the `tokenizers` library.
    """

    def __init__(self, source: str) -> None:
        from omni.models.pretrained.loading import load_other  # imports torch

        self.source, _, revision = source.partition("@")
        self.revision = revision or None
        self._own: Any = load_other("AutoTokenizer", self.source, self.revision)
        if getattr(self._own, "backend_tokenizer", None) is None:
            raise UserError(f"{source}: its tokenizer has no fast version, which omni needs: use another model")
        eos = self._own.eos_token_id
        if eos is None:
            raise UserError(f"{source}: its tokenizer has no eos token: set one and save it again")
        self.eos = NUM_SPECIALS + eos
        self.bos = None if self._own.bos_token_id is None else NUM_SPECIALS + self._own.bos_token_id
        super().__init__([b""] * NUM_SPECIALS + self._table())
        if self.decode(self.encode("a")) != "a":  # the library makes an empty tokenizer if there is none
            raise UserError(f"{source}: holds no tokenizer: give the folder of a language model with its tokenizer")
        self.end = self._end_of_turn() if self._own.chat_template else self.eos

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for every text, in threads."""
        for text in texts:
            check_text(text)
        if not texts:
            return []
        found = self._own(list(texts), add_special_tokens=False, split_special_tokens=True)
        return [[NUM_SPECIALS + token for token in tokens] for tokens in found["input_ids"]]

    def chat_pieces(self, turns: Sequence[Turn], *, generation_prompt: bool) -> list[ChatPiece]:
        """See `Tokenizer.chat_pieces`.

        The template is rendered with a mark for each turn's content, and split at the marks: the scored tokens are
        exact, and no text can be taken for a part of the template.
        """
        if not self._own.chat_template:
            raise UserError(f"{self.source} has no chat template: set data.init_args.template to plain")
        text = self._rendered([role for role, _ in turns], generation_prompt)
        pieces: list[ChatPiece] = []
        start, role = 0, None
        for match in _SLOT.finditer(text):
            pieces += self._template_pieces(text[start : match.start()], role)
            role, parts = turns[int(match[1])]
            for kind, content in parts:
                medium = None if kind == "text" else kind
                pieces.append(ChatPiece([] if medium else self.encode(content), role == "assistant", medium))
            start = match.end()
        return pieces + self._template_pieces(text[start:], role)

    def _template_pieces(self, text: str, role: str | None) -> list[ChatPiece]:
        """Text of the template itself after a turn of a role; the token that ends an answer is scored."""
        tokens = [NUM_SPECIALS + token for token in self._own(text, add_special_tokens=False)["input_ids"]]
        if role != "assistant" or self.end not in tokens:
            return [ChatPiece(tokens)]
        first = tokens.index(self.end) + 1
        return [ChatPiece(tokens[:first], True), ChatPiece(tokens[first:])]

    def _rendered(self, roles: Sequence[str], generation_prompt: bool) -> str:
        messages = [{"role": role, "content": f"\ue000{index}\ue001"} for index, role in enumerate(roles)]
        try:
            text = self._own.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=generation_prompt,
                enable_thinking=False,  # for models that write their reasoning first
            )
        except Exception as error:  # templates may raise anything
            raise UserError(f"{self.source}: its chat template refuses {' → '.join(roles)} ({error})") from error
        if [int(index) for index in _SLOT.findall(text)] != [*range(len(roles))]:
            raise UserError(
                f"{self.source}: its chat template does not contain {' → '.join(roles)} in this order, each once"
            )
        return text

    def _end_of_turn(self) -> int:
        """The first special token after an answer."""
        try:
            rest = _SLOT.split(self._rendered(["user", "assistant"], False))[-1]
        except UserError:
            return self.eos
        tokens = self._own(rest, add_special_tokens=False)["input_ids"]
        return NUM_SPECIALS + next((token for token in tokens if token in self._special_ids), self.eos - NUM_SPECIALS)

    @cached_property
    def _special_ids(self) -> set[int]:
        return {token for token, added in self._own.added_tokens_decoder.items() if added.special}

    def _table(self) -> list[bytes]:
        """Bytes of each of its own ids; none for special tokens."""
        names = self._own.convert_ids_to_tokens(range(len(self._own)))
        spelled = "ByteLevel" in str(self._own.backend_tokenizer.decoder)
        return [
            b"" if name is None or token in self._special_ids else _bytes_of(name, spelled)
            for token, name in enumerate(names)
        ]

    def state(self) -> dict[str, Any]:
        return {"kind": "pretrained", "source": self.source, "revision": self.revision, "content": self.content}

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> "PretrainedTokenizer":
        """Loads the tokenizer of a state from its source.

        Raises:
            UserError: If it cannot be loaded, or has changed.
        """
        source = f"{state['source']}@{state['revision']}" if state["revision"] else state["source"]
        tokenizer = PretrainedTokenizer(source)
        if tokenizer.content != state["content"]:
            raise UserError(f"{state['source']}: its tokenizer is not the one that the checkpoint was trained with")
        return tokenizer

    @cached_property
    def content(self) -> str:
        """The sha256, in hex, of everything that its encoding depends on."""
        whole = f"{self._own.backend_tokenizer.to_str()} {self._own.chat_template} {self.bos} {self.eos}"
        return hashlib.sha256(whole.encode()).hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """See `Tokenizer.fingerprint`; it does not depend on the source's location."""
        return self.content

    def __reduce__(self):
        return PretrainedTokenizer.from_state, (self.state(),)


def _bytes_of(name: str, spelled: bool) -> bytes:
    """Bytes of a token by its name, which is in GPT-2's characters for bytes or with SentencePiece's marks."""
    if spelled and all(character in _CHARACTERS for character in name):
        return bytes(_CHARACTERS[character] for character in name)
    if match := _BYTE.fullmatch(name):
        return bytes([int(match[1], 16)])
    return name.replace("▁", " ").encode()


def _gpt2_characters() -> dict[str, int]:
    """The printable characters of GPT-2's byte alphabet (Radford et al., 2019), and their bytes."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [value for value in range(256) if value not in visible]
    return {chr(value): value for value in visible} | {chr(256 + index): value for index, value in enumerate(others)}


_CHARACTERS = _gpt2_characters()
