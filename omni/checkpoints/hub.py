"""Trained models on the Hugging Face Hub, or in a local folder of the same files.

huggingface_hub handles tokens (`hf auth login`, or the variable HF_TOKEN): nothing here takes, prints or stores one.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from omni.checkpoints.checkpoint import Checkpoint
from omni.checkpoints.model_card import card_data, model_card
from omni.checkpoints.safetensors_folder import CONFIG, WEIGHTS, is_folder, write_folder
from omni.errors import UserError
from omni.files import private_copy

CARD = "README.md"
_FILES = (WEIGHTS, CONFIG, CARD)
_DEFAULT_OUT = Path("lightning_logs/hub")


class Published(NamedTuple):
    """A published model.

    Attributes:
        place: Its address on the Hub, or the local folder.
        size: Size of its files, in bytes.
        local_parts: Parts that are not included because they come from a local folder, with that folder.
    """

    place: str
    size: int
    local_parts: dict[str, str]


def publish(
    checkpoint: str | Path,
    repository: str,
    *,
    public: bool = False,
    license: str | None = None,
    revision: str | None = None,
    message: str | None = None,
) -> Published:
    """Publishes a checkpoint: its weights as safetensors, its configuration, and a model card.

    Args:
        checkpoint: A .ckpt file, or a pulled folder.
        repository: OWNER/NAME on the Hub, created if needed; or a local folder: ./NAME, /NAME or ~/NAME.
        public: Create a public repository, not a private one.
        license: The Hub's name of the license of the weights.
        revision: Branch of the repository.
        message: Commit message; by default the stage and the step.

    Raises:
        UserError: If the checkpoint cannot be read, or the repository cannot be written.
    """
    local = local_folder(repository)
    opened = Checkpoint(Path(checkpoint).expanduser())
    opened.check_lineage()
    card = card_data(opened)
    name = f"./{local.absolute().name}" if local else repository
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_folder(opened.content, folder, card=card)
        (folder / CARD).write_text(model_card(name, opened, card, license=license), encoding="utf-8")
        size = sum((folder / file).stat().st_size for file in _FILES)
        if local:
            _put(folder, local)
        else:
            _upload(folder, repository, public, revision, message or summary(opened))
    sources = {part: origin["source"] for part, origin in opened.content.get("origins", {}).items()}
    local_parts = {part: source for part, source in sources.items() if Path(source).expanduser().is_dir()}
    return Published(str(local or f"https://huggingface.co/{repository}"), size, local_parts)


def fetch(repository: str, *, out: Path | None = None, revision: str | None = None) -> tuple[Path, str]:
    """Fetches a published model.

    Args:
        repository: As for `publish`.
        out: The folder to write; by default lightning_logs/hub/NAME.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The folder, and a summary of the checkpoint.

    Raises:
        UserError: If the model cannot be fetched, or `out` holds other files.
    """
    local = local_folder(repository)
    if local and not local.is_dir():
        raise UserError(f"{repository} does not exist, or is not a folder")
    name = local.absolute().name if local else repository.rpartition("/")[2]
    out = (out or _DEFAULT_OUT / name).expanduser()
    _refuse_foreign(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as made:
        folder = Path(made)
        if local is None:
            _download(repository, folder, revision)
        else:
            for file in _FILES:
                if (local / file).is_file():
                    _refuse_link(local, file)
                    shutil.copyfile(local / file, folder / file)
        if not is_folder(folder):
            raise UserError(f"{repository} is not a model pushed by omni: it needs {WEIGHTS} and {CONFIG}")
        found = summary(Checkpoint(folder))  # before existing files are replaced
        _put(folder, out)
    return out, found


def summary(checkpoint: Checkpoint) -> str:
    """Its stage and step."""
    checkpoint.check_lineage()
    return f"{checkpoint.lineage['stage']}, step {checkpoint.lineage['step']:,}"


def local_folder(repository: str) -> Path | None:
    """The local folder that `repository` names, or None for a repository on the Hub.

    Raises:
        UserError: If it is neither.
    """
    if repository.startswith((".", "/", "~")):
        return Path(repository).expanduser()
    owner, slash, name = repository.partition("/")
    if not (owner and slash and name) or "/" in name:
        raise UserError(f"repository {repository}: give OWNER/NAME on the Hub, or a local folder as ./NAME or /NAME")
    if Path(repository).exists():
        raise UserError(f"repository {repository} is also a local folder: write ./{repository} to use the folder")
    return None


def _refuse_link(folder: Path, file: str) -> None:
    """Refuses a link out of a folder, which would copy another file of the user's; the Hub's cache has links."""
    target, home = (folder / file).resolve(), folder.resolve()
    cached = home.parent.name == "snapshots" and target.is_relative_to(home.parent.parent / "blobs")
    if not target.is_relative_to(home) and not cached:
        raise UserError(f"{folder / file} is a link to {target}, out of the folder: replace it by the file")


def _put(made: Path, folder: Path) -> None:
    """Replaces the files, each atomically, the weights last."""
    _refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for file in (CARD, CONFIG, WEIGHTS):
        if (made / file).is_file():
            with private_copy(folder / file) as part:
                shutil.copyfile(made / file, part)


def _refuse_foreign(folder: Path) -> None:
    there = {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.is_dir() else set()
    if folder.exists() and (not folder.is_dir() or (there and not is_folder(folder))):
        raise UserError(f"{folder} holds other files than a model of omni: give another folder")


def _upload(folder: Path, repository: str, public: bool, revision: str | None, message: str) -> None:
    import huggingface_hub

    api = huggingface_hub.HfApi(library_name="omni")
    with _hub_errors(repository):
        api.create_repo(repository, private=not public, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, revision=revision, commit_message=message)


def _download(repository: str, folder: Path, revision: str | None) -> None:
    import huggingface_hub

    with _hub_errors(repository):
        huggingface_hub.snapshot_download(
            repository, revision=revision, local_dir=folder, allow_patterns=list(_FILES), library_name="omni"
        )


@contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """Turns errors of the Hub into one line, with the token masked."""
    from huggingface_hub import get_token

    try:
        yield
    except Exception as error:  # its own errors, its validators' and its HTTP library's
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if token := get_token():
            reason = reason.replace(token, "[token]")
        # `from None`: the error's text may contain the request
        raise UserError(
            f"{repository}: Hub error ({reason}): check the name, the network and `hf auth whoami`, or give a "
            "local folder as ./NAME",
            page="howto/share.md",
        ) from None
