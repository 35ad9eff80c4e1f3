"""The tokenizer of a pretrained language model, with the interface of our own.

Its ids come `NUM_SPECIALS` behind their own: the first ones stay omni's specials, of which media need their
placeholders. The model never sees these ids, so none is added to its embedding.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, final

from omni.errors import UserError
from omni.text.tokenizer import NUM_SPECIALS, ChatPiece, Tokenizer, Turn, check_text

PRETRAINED = "pretrained:"  # what a setting that names such a tokenizer begins with
_SLOT = re.compile("\ue000(\\d+)\ue001")  # private characters: where a template puts a turn's content
_BYTE = re.compile("<0x([0-9A-F]{2})>")


@final
class PretrainedTokenizer(Tokenizer):
    """A tokenizer of `transformers`. Names of its specials in a text are plain text, as in ours.

    Args:
        source: Name on the Hub, OWNER/NAME or OWNER/NAME@REVISION, or a folder that `save_pretrained` wrote.

    Raises:
        UserError: If it cannot be had, or is too old to be read by the `tokenizers` library.
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
            raise UserError(f"{source}: its tokenizer has no token that ends a text (eos): set one and save it again")
        self.eos = NUM_SPECIALS + eos
        self.bos = None if self._own.bos_token_id is None else NUM_SPECIALS + self._own.bos_token_id
        super().__init__([b""] * NUM_SPECIALS + self._table())
        if self.decode(self.encode("a")) != "a":  # the library makes up an empty one where there is none
            raise UserError(f"{source}: holds no tokenizer: name the folder of a language model with its tokenizer")
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

        The template gets a mark for each turn's content, and is cut where these come out: so what is scored is known
        to the token, and nothing in a text can be taken for a part of the template.
        """
        if not self._own.chat_template:
            raise UserError(f"{self.source} has no chat template: set data.init_args.template to plain")
        text = self._rendered([role for role, _ in turns], generation_prompt)
        pieces: list[ChatPiece] = []
        at, behind = 0, None
        for match in _SLOT.finditer(text):
            pieces += self._written(text[at : match.start()], behind)
            role, parts = turns[int(match[1])]
            for kind, content in parts:
                medium = None if kind == "text" else kind
                pieces.append(ChatPiece([] if medium else self.encode(content), role == "assistant", medium))
            at, behind = match.end(), role
        return pieces + self._written(text[at:], behind)

    def _written(self, text: str, behind: str | None) -> list[ChatPiece]:
        """What the template itself writes; the token behind an answer, which ends it, is scored."""
        tokens = [NUM_SPECIALS + token for token in self._own(text, add_special_tokens=False)["input_ids"]]
        if behind != "assistant" or self.end not in tokens:
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
                enable_thinking=False,  # of models that would else think aloud first
            )
        except Exception as error:  # whatever its author lets it raise
            raise UserError(f"{self.source}: its chat template refuses {' → '.join(roles)} ({error})") from error
        if [int(index) for index in _SLOT.findall(text)] != [*range(len(roles))]:
            raise UserError(f"{self.source}: its chat template does not show {' → '.join(roles)}, each once, in order")
        return text

    def _end_of_turn(self) -> int:
        """The first special behind an answer."""
        try:
            behind = _SLOT.split(self._rendered(["user", "assistant"], False))[-1]
        except UserError:
            return self.eos
        tokens = self._own(behind, add_special_tokens=False)["input_ids"]
        return NUM_SPECIALS + next((token for token in tokens if token in self._special_ids), self.eos - NUM_SPECIALS)

    @cached_property
    def _special_ids(self) -> set[int]:
        return {token for token, added in self._own.added_tokens_decoder.items() if added.special}

    def _table(self) -> list[bytes]:
        """The bytes that each of its own ids stands for; none for specials."""
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
        """The tokenizer that `state` came from, from where it came.

        Raises:
            UserError: It cannot be had, or is another by now.
        """
        source = f"{state['source']}@{state['revision']}" if state["revision"] else state["source"]
        tokenizer = PretrainedTokenizer(source)
        if tokenizer.content != state["content"]:
            raise UserError(f"{state['source']}: its tokenizer is not the one that the checkpoint was trained with")
        return tokenizer

    @cached_property
    def content(self) -> str:
        """The sha256, in hex, of all that decides how it encodes."""
        whole = f"{self._own.backend_tokenizer.to_str()} {self._own.chat_template} {self.bos} {self.eos}"
        return hashlib.sha256(whole.encode()).hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """See `Tokenizer.fingerprint`; where it lies does not matter."""
        return self.content

    def __reduce__(self):
        return PretrainedTokenizer.from_state, (self.state(),)


def _bytes_of(name: str, spelled: bool) -> bytes:
    """What a token's name stands for: spelled in GPT-2's characters for bytes, or with SentencePiece's marks."""
    if spelled and all(character in _CHARACTERS for character in name):
        return bytes(_CHARACTERS[character] for character in name)
    if match := _BYTE.fullmatch(name):
        return bytes([int(match[1], 16)])
    return name.replace("▁", " ").encode()


def _gpt2_characters() -> dict[str, int]:
    """The visible characters that GPT-2 writes bytes with (Radford et al., 2019), and the bytes they stand for."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [value for value in range(256) if value not in visible]
    return {chr(value): value for value in visible} | {chr(256 + index): value for index, value in enumerate(others)}


_CHARACTERS = _gpt2_characters()
