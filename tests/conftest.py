"""Fixtures shared by all tests: the real weights, fetched once into the user's model folder."""

from __future__ import annotations

import logging
import resource
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from genai.config import Precision


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """What runs in this process may configure the log, on a standard error that is gone after the test."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def _answers_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test's models asked of the processor counts in that test alone: others put other kernels there."""
    folder = tmp_path_factory.getbasetemp() / "answers" / uuid.uuid4().hex  # made by who keeps something
    monkeypatch.setattr("genai.runtime.kept_answers.answers_folder", lambda: folder)


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct, Q4_1."""
    from genai import models

    return models.pull("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def gemma_gguf() -> Path:
    """Gemma-3-270m, Q4_K_M."""
    from genai import models

    return models.pull("gemma-3-270m")


@pytest.fixture(scope="session")
def smollm2_f32(smollm2_gguf: Path) -> Path:
    """SmolLM2's package in f32."""
    return _package("smollm2-135m-instruct", "f32")


@pytest.fixture(scope="session")
def smollm2_auto(smollm2_gguf: Path) -> Path:
    """SmolLM2's package in the default precision."""
    return _package("smollm2-135m-instruct", "auto")


@pytest.fixture(scope="session")
def gemma_f32(gemma_gguf: Path) -> Path:
    """Gemma's package in f32."""
    return _package("gemma-3-270m", "f32")


@pytest.fixture(scope="session")
def gemma_auto(gemma_gguf: Path) -> Path:
    """Gemma's package in the default precision."""
    return _package("gemma-3-270m", "auto")


def _package(name: str, precision: Precision) -> Path:
    """A package for the CPU, built once and kept where the weights are."""
    from genai import models

    return models.package(name, precision=precision, device="cpu")


def pytest_configure() -> None:
    """Tests interrupt programs: that must reach them also where this run was started in the background, or by nohup."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)  # ignored here, and not by what is started


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Memory is a figure too."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    terminalreporter.write_line(f"peak memory of this process: {peak / 1e9:.1f} GB")
