"""Conversations that a run holds out: what an export is compared on."""

from collections.abc import Sequence
from itertools import chain, islice
from typing import Any

from omni.data.conversations.opening import open_conversations
from omni.data.conversations.sources import Conversation
from omni.data.loading.run_data import local_entries, run_data


def held_out_conversations(config: Any, limit: int) -> tuple[list[Conversation], str]:
    """Conversations of the validation data of a run of `ConversationData`, of local files.

    Args:
        config: The run's configuration; None if it has none.
        limit: Most conversations.

    Returns:
        The conversations, and their source; or none, and why.
    """
    data = run_data(config)
    if data.kind not in ("", "ConversationData"):
        return [], f"the run's data is {data.kind}"
    entries = [entry for entry in local_entries(data.options.get("val")) if entry.endswith(".jsonl")]
    return (conversations_of(entries, limit), ", ".join(entries)) if entries else ([], data.absent)


def conversations_of(entries: Sequence[str], limit: int) -> list[Conversation]:
    """The first conversations of `.jsonl` files.

    Raises:
        UserError: If a file cannot be read, or a row is malformed.
    """
    rows = chain.from_iterable(source.rows() for source in open_conversations(entries))
    return list(islice(rows, limit))
