"""The command line as a user meets it: processes of their own, and a real model."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

GENAI = [sys.executable, "-c", "from genai.cli.main import main; main()"]
MODEL = "smollm2-135m-instruct"


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*GENAI, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def call(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*GENAI, *arguments], input=stdin, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(autouse=True)
def package(smollm2_gguf: Path) -> Path:
    """The package that `genai run` finds in its cache."""
    from genai import models

    return models.package(MODEL, device="cpu")


def test_run_streams_an_answer() -> None:
    done = call("run", MODEL, "The capital of France is", "--raw", "-n", "16", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
    assert done.stderr.count("\n") == 1
    assert "first token after" in done.stderr


def test_json_and_stream_agree() -> None:
    arguments = ("run", MODEL, "-", "--raw", "-n", "12", "--device", "cpu")
    streamed = call(*arguments, stdin="The three primary colours are")
    whole = json.loads(call(*arguments, "--json", stdin="The three primary colours are").stdout)
    assert whole["text"] + "\n" == streamed.stdout
    assert whole["usage"]["completion_tokens"] == 12
    assert whole["finish_reason"] == "length"


def test_chat_reuses_the_cache_of_earlier_turns() -> None:
    done = call("chat", MODEL, "-n", "16", "--device", "cpu", stdin="My name is Ada.\nWhat is my name?\n")
    assert done.returncode == 0, done.stderr
    first, second = (line for line in done.stderr.splitlines() if "first token" in line)
    assert "from the cache" not in first
    assert "from the cache" in second


def test_interrupt_ends_a_run_quietly() -> None:
    process = start("run", MODEL, "Tell me a very long story.", "-n", "4000", "--device", "cpu")
    assert process.stdout
    process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")


def test_reader_that_leaves_is_no_error() -> None:
    process = start("run", MODEL, "Tell me a very long story.", "-n", "4000", "--device", "cpu")
    assert process.stdout
    process.stdout.read(20)
    process.stdout.close()
    assert process.stderr
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=60) in (1, 141)


def test_cached_package_is_found_in_milliseconds() -> None:
    from genai import models

    begun = time.process_time()  # whatever else runs on the machine
    for _ in range(10):
        models.package(MODEL, device="cpu")
    assert (time.process_time() - begun) / 10 < 0.05


def test_inspect_accounts_for_the_file(package: Path) -> None:
    found = json.loads(call("inspect", str(package), "--json").stdout)
    stored = (package / "model.onnx.data").stat().st_size
    assert found["weight_bytes"]["total"] == pytest.approx(stored, rel=0.02)
    assert found["contract"]["followed"]
