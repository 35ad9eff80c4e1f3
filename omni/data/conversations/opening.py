"""What the names in a configuration stand for: conversations, or speech that is made into some."""

from collections.abc import Sequence
from pathlib import Path

from omni.data.conversations.sources import ConversationFile, Conversations, HubConversations
from omni.data.conversations.speech import TranscribedSpeech, TranscriptionPrompt, is_speech
from omni.data.speech.manifests import open_utterances
from omni.errors import UserError


def open_conversations(
    entries: Sequence[str],
    *,
    dictation: TranscriptionPrompt | None = None,
    cache_dir: Path = Path("data/cache"),
    hub_split: str = "train",
) -> list[Conversations]:
    """Finds the sources that a list of names stands for.

    Args:
        entries: `.jsonl` files of conversations, manifests and folders of speech (see
            `omni.data.speech.manifests.open_utterances`), or `hub:OWNER/NAME[:CONFIG[:SPLIT]]` of either.
        dictation: How speech is turned into conversations.
        cache_dir: Where downloads from the Hub go.
        hub_split: The Hub's split where an entry names none.

    Raises:
        UserError: If nothing is there, or it is of a kind that cannot be read.
    """
    dictation = dictation or TranscriptionPrompt()
    return [_open(entry, dictation, cache_dir, hub_split) for entry in entries]


def _open(entry: str, dictation: TranscriptionPrompt, cache_dir: Path, hub_split: str) -> Conversations:
    spoken = is_speech(entry)
    if entry.startswith("hub:"):
        names = entry.removeprefix("hub:").split(":")
        if len(names) > 3 or not names[0]:
            raise UserError(f"{entry!r} is no data set: write hub:OWNER/NAME[:CONFIG[:SPLIT]]")
        repository, config, split = (*names, "", "")[:3]
        table = HubConversations(repository, config, split or hub_split, cache_dir=cache_dir)
        if table.has_messages:
            return table
        spoken = True
    if spoken:
        options = {"text_column": dictation.text_column, "cache_dir": cache_dir, "hub_split": hub_split}
        [utterances] = open_utterances([entry], **options)
        return TranscribedSpeech(utterances, dictation)
    path = Path(entry).expanduser()
    if not path.is_file():
        raise UserError(
            f"{entry}: does not exist: name a .jsonl file of conversations, a manifest of speech or hub:OWNER/NAME"
        )
    if path.suffix != ".jsonl":
        raise UserError(f"{entry}: conversations are a .jsonl file, with `messages` in each row")
    return ConversationFile(path)
