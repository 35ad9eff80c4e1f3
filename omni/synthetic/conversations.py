"""Conversations: questions about the world's images and speech and their answers, on disk.

They use the files in `images` and `speech`; images and audio made for one conversation only are in
`conversations/<split>/`.
"""

from omni.synthetic.dialogues import ConversationJob, make_dialogue
from omni.synthetic.images import png
from omni.synthetic.media_folder import MediaFolder, Row
from omni.synthetic.pool import processes_for
from omni.synthetic.speech import wav

_CHUNK = 32  # conversations that a process makes at a time
_WORTHWHILE = 1500  # conversations made while another process starts and imports PyTorch


def write_conversations(
    folder: MediaFolder, *, seed: int, sizes: dict[str, int], images: dict[str, int], utterances: dict[str, int]
) -> None:
    """Writes the conversations of a world; media files that exist already are kept.

    Args:
        folder: Where manifests and media files go, beside the folders of images and speech.
        seed: Seed of the world.
        sizes: Number of conversations in each split that has any.
        images: Number of images in each split.
        utterances: Number of recordings in each split.
    """
    jobs = [
        ConversationJob(seed, split, index, images[split], utterances[split])
        for split, size in sizes.items()
        for index in range(size)
    ]
    folder.write(make_row, jobs, processes=processes_for(len(jobs), _WORTHWHILE), chunk=_CHUNK)


def make_row(job: ConversationJob) -> Row:
    """The row of a conversation, and the files that are made for it."""
    dialogue, files = make_dialogue(job), {}
    if dialogue.image is not None:
        files[f"{job.split}/{job.id}.png"] = png(dialogue.image)
    for utterance in dialogue.utterances:
        files[f"{job.split}/{utterance.id}.wav"] = wav(utterance)
    return Row({"id": job.id, "task": dialogue.task, "messages": dialogue.messages}, files)
