"""`genai serve` as a process: settings, signals, and how it ends."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from genai.cli.main import exit_code
from tests.tiny_package import tiny_package

ENGINE = ["--device", "cpu", "--max-batch", "2", "--set", "engine.kv_cache_bytes=10000000"]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_package(tmp_path_factory.mktemp("process") / "tiny")


@contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server, and where it listens."""
    command = [sys.executable, "-m", "server", *arguments, *ENGINE, "--port", "0", "--log-format", "json"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr
        try:
            for line in running.stderr:
                if found := re.search(r"running on (http://[0-9.:]+)", json.loads(line)["message"]):
                    yield running, found[1]
                    break
        finally:
            if running.poll() is None:
                running.kill()
            running.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_a_stream_end(package: Path, number: signal.Signals) -> None:
    with process(f"tiny={package}") as (running, url):
        body = {"prompt": "a", "max_tokens": 1000, "stream": True, "ignore_eos": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=120) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            running.send_signal(number)
            rest = [line for line in lines if line]
        assert json.loads(first.removeprefix("data: "))["model"] == "tiny"
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        assert running.wait(60) == 0
        assert running.stderr
        entries = [json.loads(line) for line in running.stderr.read().splitlines()]
        (access,) = [entry for entry in entries if entry["logger"] == "server.access"]
        assert (access["status"], access["model"], access["completion_tokens"]) == (200, "tiny", 1000)


def test_a_hangup_is_ignored_where_it_was() -> None:
    code = "import server.lifecycle as it; print(it.hangups())"
    for before, expected in (("", "SIGHUP"), ("trap '' HUP; ", "()")):
        command = ["sh", "-c", f'{before}exec "$0" -c "$1"', sys.executable, code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert expected in done.stdout


def test_what_kills_the_process_is_told(package: Path) -> None:
    with process(f"tiny={package}") as (running, _):
        running.send_signal(signal.SIGBUS)  # as when the weights' file is cut while it is mapped
        assert running.wait(60) == -signal.SIGBUS
        assert running.stderr
        assert "Fatal Python error: Bus error" in running.stderr.read()


def test_a_model_that_cannot_be_had_ends_the_server(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "server", str(tmp_path), "--port", "0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "is no model" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_ends_the_server(package: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "server", str(package), *ENGINE, "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"127.0.0.1:{port} cannot be listened on" in done.stderr.splitlines()[-1]


def test_print_config(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENAI_API_KEYS", "my-secret")
    monkeypatch.setenv("GENAI_SERVER_MAX_CHOICES", "3")
    assert (
        exit_code(
            ["serve", "small=a/b", "--port", "99", "--set", "engine.max_batch=2", "--no-same-bits", "--print-config"]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "port = 99" in out
    assert "max_choices = 3" in out
    assert "max_batch = 2" in out
    assert "same_bits = false" in out
    assert '[models."small"]\nsource = "a/b"' in out
    assert "my-secret" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no model to serve"),
        (["m", "--set", "port"], "--set 'port': must be NAME=VALUE"),
        (["m", "--set", "prot=1"], "the command line: unknown setting 'prot'"),
        (["m", "--config", "/no/such.toml"], "/no/such.toml cannot be read"),
        (["m", "--port", "70000"], "'--port'"),
        (["m", "--api-keys-file", "/no/such"], "cannot be read"),
        (["m", "--log-format", "xml"], "'xml' is not one of"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["serve", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("genai: ")
    assert err.count("\n") == 1
    assert message in err


def test_importing_the_application_is_quick_and_does_nothing() -> None:
    heavy = ("onnxruntime", "transformers", "torch", "onnx", "tokenizers", "opentelemetry.sdk")
    code = f"import sys, server.app; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
