"""A static page that runs exported graphs in a browser."""

from typing import Any

import sentencepiece

from omni.errors import UserError
from omni.text.tokenizer import FIRST_PIECE, ByteTokenizer, SentencePieceTokenizer, Tokenizer


def tokenizer_state(tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokenizer as plain data for `web_page/text.js`.

    Raises:
        UserError: If it is not one of omni's.
    """
    if isinstance(tokenizer, ByteTokenizer):
        return {"kind": "bytes"}
    if not isinstance(tokenizer, SentencePieceTokenizer):
        raise UserError("a page can be made of models with omni's own tokenizers only, not of a pretrained Thinker's")
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.state()["model"])
    ids = range(FIRST_PIECE, tokenizer.vocab_size)
    return {
        "kind": "sentencepiece",
        "pieces": [processor.id_to_piece(i) for i in ids],
        "scores": [processor.get_score(i) for i in ids],
    }
