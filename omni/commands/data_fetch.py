"""`omni data fetch`: public data sets, loaded before a run."""

from pathlib import Path

from omni.data.loading.hub import HUB, HubSplit
from omni.data.loading.known_sets import ALL, KNOWN_SETS
from omni.errors import UserError
from omni.pipeline.definition import read_pipeline


def fetch(names: list[str], *, cache_dir: Path = Path("data/cache")) -> None:
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

    Raises:
        UserError: If a name is not known, or a set cannot be loaded; those before it stay.
    """
    entries: list[tuple[str, str]] = []
    for name in names:
        entries += _of_pipeline(Path(name)) if name.endswith((".yaml", ".yml")) else _named(name)
    for entry, default in dict.fromkeys(entries):
        split = HubSplit(entry, default, cache_dir.expanduser())
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
