"""`omni hub push` and `omni hub pull`: trained models to and from the Hugging Face Hub, or a local folder."""

from pathlib import Path

from omni.checkpoints.hub import fetch, publish


def push(
    checkpoint: str,
    repository: str,
    *,
    public: bool = False,
    license: str | None = None,
    revision: str | None = None,
    message: str | None = None,
) -> None:
    """Publish a trained model: its weights as safetensors, its configuration, and a model card.

    The card lists parts, data, metrics and lineage, from the checkpoint and from the configuration and curves of its
    run; an existing card is replaced. Log in first: `hf auth login`.

    Example:
        omni hub push lightning_logs/audio/best.ckpt OWNER/NAME --license cc-by-4.0

    Args:
        checkpoint: A .ckpt file, or a pulled folder.
        repository: OWNER/NAME on the Hub, created if needed; or a local folder: ./NAME, /NAME or ~/NAME.
        public: Create a public repository, not a private one.
        license: The Hub's name of the license of the weights: mit, apache-2.0, cc-by-4.0, ...
        revision: Branch of the repository.
        message: Commit message.
    """
    done = publish(checkpoint, repository, public=public, license=license, revision=revision, message=message)
    print(f"{checkpoint} is in {done.place} ({done.size / 2**20:.1f} MiB)")
    for part, source in done.local_parts.items():
        print(
            f"note: {part} is not included. It is {source}, a local folder: users need that model at the same path. A "
            "part named OWNER/NAME is loaded from the Hub."
        )


def pull(repository: str, *, out: Path | None = None, revision: str | None = None) -> None:
    """Fetch a published model: a folder that every verb takes as a checkpoint.

    Example:
        omni hub pull OWNER/NAME --out recogniser

    Args:
        repository: OWNER/NAME on the Hub; or a local folder: ./NAME, /NAME or ~/NAME.
        out: The folder to write; by default lightning_logs/hub/NAME.
        revision: Branch, tag or commit on the Hub.
    """
    folder, summary = fetch(repository, out=out, revision=revision)
    print(f"{folder}: {summary}")
