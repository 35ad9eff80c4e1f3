"""`omni data fetch`: public data sets, loaded before a run."""

import re
from collections.abc import Sequence
from pathlib import Path

from omni.data.loading.hub import HUB, HubName, HubSplit
from omni.data.loading.known_sets import ALL, KNOWN_SETS
from omni.errors import UserError
from omni.files import write_text
from omni.pipeline.definition import read_pipeline
from omni.training.shipped import CONFIGS, find_config, find_configs, split_configs


def fetch(names: list[str], *, cache_dir: Path = Path("data/cache"), pin: bool = False) -> None:
    """Load public data sets of the Hugging Face Hub beforehand; HF_HUB_OFFLINE=1 then trains without a network.

    Downloads show their progress; interrupted ones are resumed by the same command, and `huggingface_hub` checks whole
    files by their hashes. HF_HOME or HF_DATASETS_CACHE is where they lie, HF_ENDPOINT a mirror, HF_TOKEN the token for
    gated sets. Nothing is loaded twice.

    Example:
        omni data fetch real

    Args:
        names: Names that `omni data list` shows, real for those of configs/real/chain.yaml, a pipeline's YAML file for
            all that it reads from the Hub, or hub:OWNER/NAME[@REVISION][:CONFIG[:SPLIT[[START:STOP]]]].
        cache_dir: As `data.cache_dir` of the runs: folder of numbered rows, and of all if neither HF_HOME nor
            HF_DATASETS_CACHE is set.
        pin: Before, write the newest commit of each set into the files of the pipelines, in place of a branch or a tag:
            later runs read the same rows.

    Raises:
        UserError: If a name is not known, or a set cannot be loaded; those before it stay. Or if there is nothing to
            pin, or it is in files that come with omni.
    """
    cache_dir = cache_dir.expanduser()
    pipelines = [Path(name) for name in names if name.endswith((".yaml", ".yml"))]
    if pin and not pipelines:
        raise UserError("--pin writes commits into the files of a pipeline: name one (.yaml)")
    if pin:
        for pipeline in pipelines:
            _pin(pipeline, cache_dir)
    entries: list[tuple[str, str]] = []
    for name in names:
        entries += _of_pipeline(Path(name)) if name.endswith((".yaml", ".yml")) else _named(name)
    for entry, default in dict.fromkeys(entries):
        split = HubSplit(entry, default, cache_dir)
        print(f"{split.name}: {split.load():,} rows", flush=True)
    print("all loaded: HF_HUB_OFFLINE=1 omni train ... reads them without a network")


def _of_pipeline(path: Path) -> list[tuple[str, str]]:
    """What the stages of a pipeline read from the Hub, with the split where a name has none."""
    found = []
    for stage in read_pipeline(path).stages.values():
        data = stage.configuration.config["data"]["init_args"].as_dict()
        for key in ("train", "val", "test", "replay"):
            given = data.get(key) or []
            entries = [given] if isinstance(given, str) else list(given)
            found += [(entry, "train" if key == "replay" else key) for entry in entries if entry.startswith(HUB)]
    if not found:
        raise UserError(f"{path}: its stages read nothing from the Hub: name another pipeline, or run it")
    return found


def _pin(path: Path, cache_dir: Path) -> None:
    """Writes commits into the files of a pipeline; all are known before the first file is written."""
    commits: dict[str, str] = {}  # by the name of a set, with its revision
    for entry, default in dict.fromkeys(_of_pipeline(path)):
        name = HubName.parse(entry)
        named = f"{HUB}{name.repository}" + (f"@{name.revision}" if name.revision else "")
        if named in commits or Path(name.repository).is_dir():  # a folder has no commit
            continue
        commit = HubSplit(entry, default, cache_dir).commit
        if commit is None:
            raise UserError(f"{named}: its commit is not known, which the Hub tells: pin it with a network")
        commits[named] = f"{HUB}{name.repository}@{commit}"
    contents = {}
    for file in _files_of(path):
        before = after = file.read_text(encoding="utf-8")
        for named, pinned in commits.items():
            after = re.sub(rf"{re.escape(named)}(?=[:\s\"',\]}}]|$)", pinned, after)
        if after != before:
            contents[file] = after
    if shipped := [file for file in contents if file.resolve().is_relative_to(CONFIGS)]:
        raise UserError(
            f"--pin would change {shipped[0]}, which comes with omni: make a copy (`omni configs copy`), and name that"
        )
    for file, content in contents.items():
        write_text(file, content)
    for named, pinned in commits.items():
        if named != pinned:
            print(f"{named} is now {pinned}")


def _files_of(path: Path) -> Sequence[Path]:
    """The files of a pipeline: its own, and the configurations of its stages with their base files."""
    stages = read_pipeline(path).stages.values()
    named = [name for stage in stages for name in split_configs(find_configs(stage.arguments))[1]]
    return list(dict.fromkeys((find_config(path), *map(Path, named))))


def _named(name: str) -> list[tuple[str, str]]:
    if name.startswith(HUB):
        return [(name, "train")]
    if name == ALL:
        return [(entry, "train") for known in KNOWN_SETS.values() if known.in_chain for entry in known.names]
    if name not in KNOWN_SETS:
        raise UserError(
            f"{name}: not a known data set: there are {', '.join(KNOWN_SETS)}, {ALL} for those of "
            "configs/real/chain.yaml, pipelines (.yaml), and hub:OWNER/NAME"
        )
    return [(entry, "train") for entry in KNOWN_SETS[name].names]
