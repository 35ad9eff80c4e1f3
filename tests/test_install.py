"""Dependencies: bounds of every package, and a lock file within them."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from omni.errors import install_hint

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"].values()
REQUIREMENTS = [
    requirement
    for requirement in map(Requirement, [*PROJECT["dependencies"], *(each for extra in EXTRAS for each in extra)])
    if requirement.name != PROJECT["name"]
]
LOCKED = {
    canonicalize_name(requirement.name): requirement
    for requirement in (
        Requirement(line)
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    )
}
BREAKS_OFTEN = {
    "transformers",
    "peft",
    "datasets",
    "jsonargparse",
    "huggingface-hub",
    "torch",
    "torchaudio",
    "lightning",
}


def test_all_packages_are_found():
    assert len(REQUIREMENTS) > 25
    assert {requirement.name for requirement in REQUIREMENTS} >= BREAKS_OFTEN


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_a_package_has_bounds_and_a_locked_version_within_them(requirement):
    operators = {specifier.operator for specifier in requirement.specifier}
    assert ">=" in operators
    assert "<" in operators or requirement.name not in BREAKS_OFTEN
    (pin,) = LOCKED[canonicalize_name(requirement.name)].specifier
    assert pin.operator == "=="
    assert Version(pin.version) in requirement.specifier


def test_the_lock_file_is_valid_for_pip_on_every_system():
    for name, requirement in LOCKED.items():
        assert not requirement.extras, name  # pip refuses extras in constraints
        assert requirement.url is None, name
        assert [specifier.operator for specifier in requirement.specifier] == ["=="], name
    assert "linux" in str(LOCKED["triton"].marker)


def test_the_distribution_has_its_own_name_and_no_hint_names_another_package():
    assert PROJECT["name"] == "omni-lightning"  # `omni` on PyPI is another package
    pages = [
        path for folder in ("omni", "configs") for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml")
    ]
    pages += [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Dockerfile", "Makefile")]
    assert len(pages) > 200
    wrong = re.compile(r"pip install (-e )?['\"]?omni\b(?!-lightning)")
    assert not [str(path) for path in pages if wrong.search(path.read_text(encoding="utf-8"))]
    assert install_hint("hf") == "run `pip install -e '.[hf]'` in omni's repository (see docs/howto/install.md#extras)"
    assert {"hf", "world"} <= PROJECT["optional-dependencies"].keys()
