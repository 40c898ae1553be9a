"""What `make lock` has written follows what project, peers and clients want, and tells nothing of the machine."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
APART = sorted(
    path.parent
    for pattern in ("benchmarks/peers/*/requirements.in", "tests/clients/*/requirements.in")
    for path in ROOT.glob(pattern)
)
"""What has an environment of its own."""
NODE = sorted(path.parent for path in ROOT.glob("tests/clients/*/package.json"))
LOCKS = ROOT / "deploy" / "locks"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = {
    "cpu.txt": ["cpu"],
    "dev.txt": ["dev"],
    "server-cpu.txt": ["cpu", "server", "otel"],
    "server-gpu.txt": ["gpu", "server", "otel"],
    "server-ray.txt": ["cpu", "server", "otel", "ray"],
}
PINNED = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>[^ ]+)( ; [^\\]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+\n")


def name_of(requirement: Requirement) -> str:
    return re.sub(r"[-_.]+", "-", requirement.name).lower()


def pins(lock: Path) -> dict[str, str]:
    """The version of each package in a lock, which has nothing else."""
    text = re.sub(r"(?m)^ *#.*\n|^\n", "", lock.read_text(encoding="utf-8"))
    found = list(PINNED.finditer(text))
    assert "".join(each[0] for each in found) == text, "something without a release or its hashes, or a release twice"
    assert len({each["name"] for each in found}) == len(found)
    return {each["name"]: each["version"] for each in found}


def wanted(extras: list[str]) -> list[Requirement]:
    """The project's requirements with those of some extras, and of the extras that these name."""
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        for line in PROJECT["optional-dependencies"][extra]:
            requirement = Requirement(line)
            own = requirement.name == PROJECT["name"]
            lines += map(str, wanted(sorted(requirement.extras))) if own else [line]
    return [Requirement(line) for line in dict.fromkeys(lines)]


def assert_follows(lock: dict[str, str], requirements: list[Requirement]) -> None:
    for requirement in requirements:
        if (name := name_of(requirement)) == "torch":
            assert name not in lock, "which build is right is the machine's business"
        else:
            assert requirement.specifier.contains(lock[name]), f"{requirement}, but {lock[name]} is locked: make lock"


@pytest.mark.parametrize("name", EXTRAS)
def test_locks_follow_the_project(name: str) -> None:
    lock = pins(LOCKS / name)
    assert_follows(lock, wanted(EXTRAS[name]))
    everything = pins(LOCKS / "dev.txt")
    differing = {package for package in lock if lock[package] != everything.get(package)}
    assert differing <= {"onnxruntime-gpu"}, "what is not tested"


def test_the_build_backend_is_locked() -> None:
    assert_follows(pins(LOCKS / "build.txt"), [Requirement(line) for line in PYPROJECT["build-system"]["requires"]])


@pytest.mark.parametrize("folder", APART, ids=lambda path: path.name)
def test_locks_follow_what_stands_apart(folder: Path) -> None:
    lines = (folder / "requirements.in").read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert_follows(pins(folder / "requirements.txt"), requirements)


@pytest.mark.parametrize("folder", NODE, ids=lambda path: path.name)
def test_node_locks_follow_their_packages(folder: Path) -> None:
    wanted = json.loads((folder / "package.json").read_text(encoding="utf-8"))["dependencies"]
    text = (folder / "package-lock.json").read_text(encoding="utf-8")
    locked = json.loads(text)["packages"]
    assert {name: locked[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    assert all("integrity" in package for path, package in locked.items() if path)
    assert '"resolved"' not in text, "where it was fetched from"


@pytest.mark.parametrize(
    "lock",
    [*LOCKS.glob("*.txt"), *(folder / "requirements.txt" for folder in APART)],
    ids=lambda path: path.parent.name,
)
def test_locks_tell_nothing_of_the_machine(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    assert "make lock" in text.splitlines()[1]
    assert "://" not in text
    assert not re.search(r"(?m)(^| )/", text), "a path"
    assert not re.search(r"^(-|nvidia|triton|cuda)", text, re.MULTILINE), "what only one build of torch needs"
