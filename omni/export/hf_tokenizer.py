"""omni's tokenizers as a fast tokenizer of `transformers`, and omni's chat template as Jinja."""

from typing import Any

from omni.errors import UserError
from omni.text.chat_template import Template, stop_token
from omni.text.tokenizer import (
    BOS,
    FIRST_PIECE,
    PAD,
    SPECIALS,
    UNK,
    ByteTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
)

_ROLES = "['system', 'user', 'assistant']"
# A turn's first text gets `lead`, as in `omni.text.chat_template`.
_CHAT = """
{{- '<|bos|>' -}}
{%- for message in messages -%}
  {%- if message['role'] not in ROLES -%}
    {{- raise_exception('role ' ~ message['role'] ~ ' is unknown: use system, user or assistant') -}}
  {%- endif -%}
  {{- '<|' ~ message['role'] ~ '|>' -}}
  {%- if message['content'] is string -%}
    {{- LEAD ~ message['content'] if message['content'] else '' -}}
  {%- else -%}
    {%- set turn = namespace(first=true) -%}
    {%- for part in message['content'] -%}
      {%- if part['type'] == 'text' -%}
        {{- LEAD ~ part['text'] if turn.first and part['text'] else part['text'] -}}
        {%- set turn.first = false -%}
      {%- elif message['role'] != 'assistant' or part['type'] != 'audio' -%}
        {{- raise_exception('this export reads text only, and a part is of type ' ~ part['type']) -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|assistant|>' -}}
{%- endif -%}
"""


def chat_template(tokenizer: Tokenizer) -> str:
    """omni's chat template for text as Jinja.

    Rendered and tokenized by `transformers`, a conversation has the ids of `encode_chat`, but for two cases: names of
    specials within a text become specials, as in all chat templates of `transformers`; and texts of one turn that
    follow each other in a list of parts are tokenized as one.
    """
    return _CHAT.replace("ROLES", _ROLES).replace("LEAD", repr(tokenizer.lead)).strip()


def fast_tokenizer(tokenizer: Tokenizer, *, template: Template | None, context: int) -> Any:
    """A `PreTrainedTokenizerFast` with the ids of a tokenizer of omni.

    With `add_special_tokens` a text starts with bos. Names of specials in a text become specials, unless
    `split_special_tokens` is set: then the ids are those of `Tokenizer.encode`.

    Args:
        tokenizer: The tokenizer.
        template: The chat template that the model was trained with; only `chat` exists as Jinja, because `plain`
            tokenizes each turn alone.
        context: Most tokens of a row.

    Raises:
        UserError: If it is not a tokenizer of omni.
    """
    from tokenizers import AddedToken, decoders, models, processors
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    names, merges = _vocabulary(tokenizer)
    backend = Backend(
        models.BPE(
            vocab={name: number for number, name in enumerate(names)},
            merges=merges,
            unk_token=SPECIALS[UNK],
            byte_fallback=True,
        )
    )
    # Pieces hold spaces and not SentencePiece's mark U+2581, which is then a character like others: three bytes.
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in SPECIALS])
    bos = SPECIALS[BOS]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, BOS)]
    )
    stop = stop_token(tokenizer, template or "plain")
    # Absent, not None: onnxruntime-genai refuses a null in tokenizer_config.json.
    chat = {"chat_template": chat_template(tokenizer)} if template == "chat" else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=bos,
        eos_token=SPECIALS[stop],
        unk_token=SPECIALS[UNK],
        pad_token=SPECIALS[PAD],
        additional_special_tokens=[name for i, name in enumerate(SPECIALS) if i not in (BOS, stop, UNK, PAD)],
        clean_up_tokenization_spaces=False,
        model_max_length=context,
        **chat,
    )


def _vocabulary(tokenizer: Tokenizer) -> tuple[list[str], list[tuple[str, str]]]:
    """The name of each id, and the merges of two pieces in the order in which SentencePiece prefers them."""
    if not isinstance(tokenizer, ByteTokenizer | SentencePieceTokenizer):
        raise UserError(f"a {type(tokenizer).__name__} cannot be exported: only omni's own tokenizers can")
    names = [*SPECIALS, *(f"<0x{value:02X}>" for value in range(256))]
    pieces = [tokenizer.bytes_of(token).decode() for token in range(FIRST_PIECE, tokenizer.vocab_size)]
    known = set(pieces)
    # SentencePiece merges the leftmost pair with the best piece, and orders pieces by their score.
    merges = [
        (piece[:at], piece[at:])
        for piece in pieces
        for at in range(1, len(piece))
        if piece[:at] in known and piece[at:] in known
    ]
    return names + pieces, merges
