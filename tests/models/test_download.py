"""`download.fetch` against a server that drops connections, lies and refuses."""

from __future__ import annotations

import errno
import random
import socket
from pathlib import Path

import pytest

from genai.errors import DownloadError
from genai.models import download
from tests.models.loopback import FileServer, sha256

BODY = random.Random(0).randbytes(300_000)


@pytest.fixture
def target(home: Path, server: FileServer) -> Path:
    server.files["/f"] = BODY
    return home / "downloads" / "f"


def fetch(server: FileServer, target: Path, digest: str | None = sha256(BODY)) -> list[tuple[str, int, int]]:
    seen: list[tuple[str, int, int]] = []
    download.fetch(f"{server.url}/f", target, sha256=digest, label="f", progress=lambda *what: seen.append(what))
    return seen


def assert_nothing_left(target: Path) -> None:
    assert list(target.parent.iterdir()) == []


def test_whole_file_and_progress(server: FileServer, target: Path) -> None:
    seen = fetch(server, target)
    assert target.read_bytes() == BODY
    assert seen[0] == ("f", 0, len(BODY))
    assert seen[-1] == ("f", len(BODY), len(BODY))
    assert [path.name for path in target.parent.iterdir()] == ["f"]


def test_dropped_connection_is_resumed_at_once(server: FileServer, target: Path) -> None:
    server.cut_at, server.cuts = len(BODY) // 2, 1
    fetch(server, target)
    assert target.read_bytes() == BODY
    assert server.ranges("/f") == [None, f"bytes={len(BODY) // 2}-"]


def test_next_call_resumes(server: FileServer, target: Path) -> None:
    server.cut_at, server.cuts = len(BODY) // 2, 1
    server.status = lambda headers: 500 if headers.get("Range") else 200
    with pytest.raises(DownloadError, match=r"stopped after 150,000 bytes .* the same call resumes"):
        fetch(server, target)
    assert not target.exists()
    server.status = lambda headers: 200
    fetch(server, target)
    assert target.read_bytes() == BODY
    assert server.ranges("/f")[-1] == f"bytes={len(BODY) // 2}-"


def test_server_that_cannot_resume_sends_all_again(server: FileServer, target: Path) -> None:
    server.cut_at, server.cuts, server.ignore_range = len(BODY) // 2, 1, True
    fetch(server, target)
    assert target.read_bytes() == BODY


def test_whole_partial_file_is_not_fetched_again(server: FileServer, target: Path) -> None:
    target.parent.mkdir(parents=True)
    download.partial_of(target).write_bytes(BODY)
    fetch(server, target)
    assert target.read_bytes() == BODY
    assert server.ranges("/f") == [f"bytes={len(BODY)}-"]


@pytest.mark.parametrize("leftover", [b"x" * 1000, b"x" * len(BODY), b"x" * (len(BODY) + 5)])
def test_partial_file_of_something_else_is_dropped(server: FileServer, target: Path, leftover: bytes) -> None:
    target.parent.mkdir(parents=True)
    download.partial_of(target).write_bytes(leftover)
    fetch(server, target)
    assert target.read_bytes() == BODY


def test_wrong_checksum_leaves_nothing(server: FileServer, target: Path) -> None:
    with pytest.raises(DownloadError, match="wrong sha256 checksum"):
        fetch(server, target, "0" * 64)
    assert_nothing_left(target)


def test_refusal_is_not_retried(server: FileServer, target: Path) -> None:
    server.status = lambda headers: 403
    with pytest.raises(download.UnreachableError, match="403"):
        fetch(server, target)
    assert len(server.requests) == 1
    assert_nothing_left(target)


def test_busy_server_is_retried(server: FileServer, target: Path) -> None:
    answers = iter([503, 429, 200])
    server.status = lambda headers: next(answers)
    fetch(server, target)
    assert target.read_bytes() == BODY


def test_no_server(home: Path) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}/f"
        with pytest.raises(download.UnreachableError, match="refused"):
            download.fetch(url, home / "f", sha256=None, label="f")


def test_full_disk_is_one_line_and_leaves_nothing(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "_copy", full)
    with pytest.raises(DownloadError, match=r"No space left on device; free some space, or set GENAI_HOME"):
        fetch(server, target)
    assert_nothing_left(target)
