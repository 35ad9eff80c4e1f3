"""The sources of conversations that names in a configuration stand for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omni.data.conversations.sources import ConversationFile, Conversations, HubConversations
from omni.data.conversations.speech import TranscribedSpeech, TranscriptionPrompt, is_speech
from omni.data.loading.hub import HUB, Columns
from omni.data.speech.manifests import AUDIO_KEYS
from omni.data.speech.opening import open_utterances
from omni.errors import UserError


def open_conversations(
    entries: Sequence[str],
    *,
    transcription_prompt: TranscriptionPrompt | None = None,
    cache_dir: Path = Path("data/cache"),
    split: str = "train",
    columns: Columns | None = None,
) -> list[Conversations]:
    """Finds the sources that a list of names stands for.

    Args:
        entries: `.jsonl` or `.json` files of conversations, manifests and folders of speech (see
            `omni.data.speech.opening.open_utterances`), or `hub:OWNER/NAME[:CONFIG[:SPLIT]]` of either.
        transcription_prompt: Turns speech into conversations.
        cache_dir: Folder of downloads from the Hub.
        split: `train`, `val` or `test`: the Hub's split where an entry names none.
        columns: Names of columns by data set of the Hub; see `HubSplit`.

    Raises:
        UserError: If a source does not exist or its format is not known.
    """
    prompt = transcription_prompt or TranscriptionPrompt()
    hub: dict[str, Any] = {"cache_dir": cache_dir, "split": split, "columns": columns}
    return [_open(entry, prompt, hub) for entry in entries]


def _open(entry: str, prompt: TranscriptionPrompt, hub: dict[str, Any]) -> Conversations:
    if entry.startswith(HUB):
        conversations = HubConversations(entry, **hub)
        if conversations.has_messages:
            return conversations
        names = {*conversations.stored_names, *conversations.columns}
        if names.isdisjoint(AUDIO_KEYS):
            raise UserError(
                f"{conversations.name}: neither conversations (messages, texts, query and response, ...) nor `audio` "
                f"among its columns, {sorted(names)}: name them in data.columns, {{OWNER/NAME: {{messages: COLUMN}}}}"
            )
    if entry.startswith(HUB) or is_speech(entry):
        [utterances] = open_utterances([entry], text_column=prompt.text_column, **hub)
        return TranscribedSpeech(utterances, prompt)
    path = Path(entry).expanduser()
    if not path.is_file():
        raise UserError(
            f"{entry}: does not exist: name a .jsonl file of conversations, a manifest of speech or hub:OWNER/NAME"
        )
    if path.suffix not in (".jsonl", ".json"):
        raise UserError(f"{entry}: conversations are a .jsonl file, with `messages` in each row")
    return ConversationFile(path)
