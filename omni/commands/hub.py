"""The verbs `hub push` and `hub pull`: trained models to and from the Hugging Face Hub, or a local folder.

Tokens are huggingface_hub's affair (`hf auth login`, or the variable HF_TOKEN): nothing here takes, prints or stores
one.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omni.checkpoints.checkpoint import Checkpoint
from omni.checkpoints.model_card import facts, model_card
from omni.checkpoints.safetensors_folder import CONFIG, WEIGHTS, is_folder, write_folder
from omni.errors import UserError
from omni.files import private_copy

CARD = "README.md"
_FILES = (WEIGHTS, CONFIG, CARD)
_PULLED = Path("lightning_logs/hub")


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

    The card tells parts, data, metrics and lineage, from the checkpoint and from the configuration and curves beside
    it; it is written anew each time. Log in first: `hf auth login`.

    Args:
        checkpoint: A .ckpt file, or a folder that was pulled.
        repository: OWNER/NAME on the Hub, made if it is not there; or a local folder: ./NAME, /NAME or ~/NAME.
        public: If the repository has to be made, everybody may see it; otherwise it is private.
        license: Under which the weights may be used, as the Hub calls it: mit, apache-2.0, cc-by-4.0, ...
        revision: Branch of the repository.
        message: Of the commit.
    """
    local = _local(repository)
    source = Path(checkpoint).expanduser()
    read = Checkpoint(source).content
    known = facts(read, source)
    name = f"./{local.absolute().name}" if local else repository
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_folder(read, folder, card=known)
        (folder / CARD).write_text(model_card(name, read, known, license=license), encoding="utf-8")
        size = sum((folder / file).stat().st_size for file in _FILES) / 2**20
        if local:
            _put(folder, local)
        else:
            lineage = read["lineage"]
            _upload(folder, repository, public, revision, message or f"{lineage['stage']}, step {lineage['step']:,}")
    print(f"{checkpoint} is in {local or f'https://huggingface.co/{repository}'} ({size:.1f} MiB)")
    for part, origin in read.get("origins", {}).items():
        if Path(origin["source"]).expanduser().is_dir():
            print(
                f"note: its {part} is {origin['source']}, a folder of this machine, and not in it: who pulls it needs "
                "that model at the same path; a part named OWNER/NAME on the Hub is found anywhere"
            )


def pull(repository: str, *, out: Path | None = None, revision: str | None = None) -> None:
    """Fetch a model that was pushed: a folder that every verb takes as a checkpoint.

    Args:
        repository: OWNER/NAME on the Hub; or a local folder: ./NAME, /NAME or ~/NAME.
        out: The folder to write; lightning_logs/hub/NAME if not given.
        revision: Branch, tag or commit of the repository on the Hub.
    """
    local = _local(repository)
    if local and not local.is_dir():
        raise UserError(f"{repository}: there is no such folder")
    name = local.absolute().name if local else repository.rpartition("/")[2]
    out = (out or _PULLED / name).expanduser()
    _refuse_foreign(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as made:
        folder = Path(made)
        if local is None:
            _download(repository, folder, revision)
        else:
            for file in _FILES:
                if (local / file).is_file():
                    shutil.copyfile(local / file, folder / file)
        if not is_folder(folder):
            raise UserError(f"{repository}: holds no {WEIGHTS} with a {CONFIG}: it is no model that omni pushed")
        lineage = Checkpoint(folder).lineage  # before anything that was there is touched
        _put(folder, out)
    print(f"{out}: {lineage['stage']}, step {lineage['step']:,}")


def _local(repository: str) -> Path | None:
    """The local folder that is meant, or None for one on the Hub."""
    if repository.startswith((".", "/", "~")):
        return Path(repository).expanduser()
    owner, slash, name = repository.partition("/")
    if not (owner and slash and name) or "/" in name:
        raise UserError(f"repository {repository}: give OWNER/NAME on the Hub, or a local folder as ./NAME or /NAME")
    if Path(repository).exists():
        raise UserError(f"repository {repository}: is the Hub's or the folder here meant? Write ./{repository} for it")
    return None


def _put(made: Path, folder: Path) -> None:
    """Puts the files in place, each at once, the weights last."""
    _refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for file in (CARD, CONFIG, WEIGHTS):
        if (made / file).is_file():
            with private_copy(folder / file) as part:
                shutil.copyfile(made / file, part)


def _refuse_foreign(folder: Path) -> None:
    there = {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.is_dir() else set()
    if folder.exists() and (not folder.is_dir() or (there and not is_folder(folder))):
        raise UserError(f"{folder}: holds something other than a model that was pushed or pulled: give another folder")


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
    """Turns what the Hub complains of into one line, without the token, should that be in it."""
    from huggingface_hub import get_token

    try:
        yield
    except Exception as error:  # its own errors, its validators' and those of the HTTP library it is built on
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if token := get_token():
            reason = reason.replace(token, "[token]")
        # `from None`: the error's own text may hold what was sent
        raise UserError(
            f"{repository}: the Hub refuses ({reason}): check the name, the network and `hf auth whoami`, or give a "
            "local folder as ./NAME"
        ) from None
