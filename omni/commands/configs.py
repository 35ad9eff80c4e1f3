"""The verbs `configs` and `configs copy`: the configurations that come with omni."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from omni.errors import UserError
from omni.training.shipped import CONFIGS


def list_configs() -> None:
    """List the configurations that come with omni, by the names that `--config` and `omni train` take.

    Example:
        omni configs
    """
    paths = [path for path in sorted(CONFIGS.rglob("*.yaml")) if "models" not in path.parts]
    names = [path.relative_to(CONFIGS).as_posix() for path in paths]
    width = max(map(len, names))
    for name, path in zip(names, paths, strict=True):
        print(f"{name:<{width}}  {path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")
    sizes = sorted(path.name for path in (CONFIGS / "models").iterdir())
    print(f"\nmodels/SIZE/PART.yaml: arguments of a part; sizes: {', '.join(sizes)}")
    print("`omni configs copy NAME ...` writes copies to change, with the files that they name; `all` copies all.")


def copy_configs(names: list[str], *, out: Path = Path("configs")) -> None:
    """Copy configurations that come with omni, with the files that they name: bases, stages of a chain, model sizes.

    Example:
        omni configs copy world/thinker.yaml --out mine

    Args:
        names: Names as `omni configs` lists them, such as world/thinker.yaml, or `all`.
        out: Folder of the copies; their folders are kept.

    Raises:
        UserError: If there is no such configuration, or another file is in the way.
    """
    found: list[Path] = []
    for name in names:
        path = (CONFIGS / name.removeprefix("configs/")).resolve()
        if name == "all":
            found += [each for each in sorted(CONFIGS.rglob("*")) if each.is_file()]
        elif path.is_file() and path.is_relative_to(CONFIGS):
            found += _with_named(path)
        else:
            raise UserError(f"no configuration {name} comes with omni: `omni configs` lists them")
    targets = {path: out / path.relative_to(CONFIGS) for path in found}
    for path, target in targets.items():
        if target.exists() and (not target.is_file() or target.read_bytes() != path.read_bytes()):
            raise UserError(f"{target} exists and differs from the copy: move it, or give another --out")
    for path, target in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        print(target)


def _with_named(path: Path) -> Iterator[Path]:
    """A configuration and the files that it names, and they name, ..."""
    yield path
    if path.suffix != ".yaml":
        return
    for text in _texts(yaml.safe_load(path.read_text(encoding="utf-8"))):
        if text.endswith(".yaml") and (path.parent / text).is_file():
            yield from _with_named((path.parent / text).resolve())


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield value
