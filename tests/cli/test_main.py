"""What all commands share: help, errors as one line, exit codes, plugins, a quick start."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from genai.cli import main
from genai.errors import GenAIError
from tests.cli.conftest import FakeLLM, Genai

COMMANDS = ("run", "chat", "generate-file", "pull", "build", "models", "inspect", "bench")


def test_no_command_and_help_list_the_commands(run_genai: Genai) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        outcome = run_genai(*arguments)
        assert (outcome.code, outcome.err) == (0, "")
        assert all(f"\n  {command} " in outcome.out for command in COMMANDS)
        assert "...\n  " not in outcome.out, "a command's first sentence is cut off"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run_genai: Genai, command: str) -> None:
    outcome = run_genai(command, "--help")
    assert outcome.code == 0
    assert f"Usage: genai {command}" in outcome.out


def test_version(run_genai: Genai) -> None:
    assert run_genai("--version").out.startswith("genai ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "No such command 'fly'; see genai --help"),
        (["--fly"], "No such option: --fly"),
        (["run"], "Missing argument 'MODEL'; see genai run --help"),
        (["run", "m", "p", "--fly"], "No such option: --fly"),
        (["run", "m", "p", "--temperature", "warm"], "'--temperature'"),
        (["run", "m", "p", "--top-p", "1.5"], "'--top-p'"),
        (["run", "m", "p", "-n", "0"], "'--max-new-tokens'"),
        (["run", "m", "p", "-p", "f33"], "'f33' is not one of 'auto', 'f32'"),
        (["run", "m", "p", "--device", "tpu"], "'tpu' is not one of 'auto', 'cpu', 'cuda'"),
        (["run", "nothing-like-it", "p"], "no model 'nothing-like-it'; known names"),
        (["run", "smollm2", "p"], "did you mean 'smollm2-135m-instruct'?"),
        (["pull", "./here"], "no model './here'"),
        (["build", "x"], "Missing option '--output'"),
        (["build", "/no/such.gguf", "-o", "out"], "no model '/no/such.gguf'"),
        (["models", "--remove", "nothing"], "nothing of 'nothing' is here"),
        (["inspect", "/no/such"], "no such file or folder: /no/such"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run_genai: Genai, arguments: list[str], message: str) -> None:
    outcome = run_genai(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("genai: ")
    assert outcome.err.count("\n") == 1
    assert message in outcome.err


def raising(error: BaseException) -> Callable[[str], object]:
    def before(word: str) -> None:
        raise error

    return before


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (GenAIError("broken\nin two lines"), 2, "genai: broken in two lines\n"),
        (GenAIError("a name \x1b[2J of a file"), 2, "genai: a name \\x1b[2J of a file\n"),
        (KeyboardInterrupt(), 130, ""),
        (RuntimeError("a bug"), 1, "genai: unexpected RuntimeError: a bug (GENAI_DEBUG=1 shows where)\n"),
        (PermissionError(13, "Permission denied"), 1, "genai: unexpected PermissionError: [Errno 13] Permission"),
    ],
)
def test_failures(run_genai: Genai, llm: FakeLLM, error: BaseException, code: int, message: str) -> None:
    llm.before = raising(error)
    outcome = run_genai("run", "m", "p")
    assert outcome.code == code
    assert outcome.err.startswith(message)
    assert llm.is_closed


def test_traceback_only_when_debugging(run_genai: Genai, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Traceback" not in run_genai("pull", "x").err
    monkeypatch.setenv("GENAI_DEBUG", "1")
    outcome = run_genai("pull", "x")
    assert outcome.code == 2
    assert "Traceback" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("genai: no model 'x'")


class FakeEntry:
    """An entry point."""

    def __init__(self, name: str, command: Callable[..., None] | Exception) -> None:
        self.name = name
        self._command = command

    def load(self) -> Callable[..., None]:
        if isinstance(self._command, Exception):
            raise self._command
        return self._command


def greet(name: str) -> None:
    """Greet someone."""
    typer.echo(f"hello {name}")


def test_plugins(run_genai: Genai, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        FakeEntry("greet", greet),
        FakeEntry("broken", ImportError("no module named x")),
        FakeEntry("run", greet),
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: entries if group == "genai.commands" else [])
    assert run_genai("greet", "you").out == "hello you\n"
    assert "Greet someone." in run_genai().out
    outcome = run_genai("broken")
    assert (outcome.code, outcome.err) == (2, "genai: `genai broken` cannot be loaded: no module named x\n")
    assert "Answer a prompt" in run_genai("run", "--help").out


def test_start_imports_nothing_heavy() -> None:
    heavy = (
        *("numpy", "onnx", "onnxruntime", "tokenizers", "transformers", "torch", "huggingface_hub", "rich", "jinja2"),
        "pydantic",
    )
    code = (
        "import sys; from genai.cli.main import exit_code; code = exit_code(['--help']); "
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert time.perf_counter() - begun < 4  # about 0.25 s on an idle machine


def test_closed_pipe_is_quiet() -> None:
    code = "import sys; from genai.cli.main import main; main(['--help'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() in (1, 141)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_full_disk_is_told_once() -> None:
    done = run_in_shell(">/dev/full")
    assert (done.returncode, done.stderr) == (2, "genai: cannot write the output: No space left on device\n")
    assert run_in_shell("2>/dev/full", "fly").returncode == 2


@pytest.mark.parametrize(("redirection", "out"), [("<&-", "genai"), (">&-", ""), ("2>&-", "genai")])
def test_closed_streams_are_as_good_as_none(redirection: str, out: str) -> None:
    done = run_in_shell(redirection)
    assert (done.returncode, done.stdout.partition(" ")[0], done.stderr) == (0, out, "")
    assert run_in_shell(redirection, "fly").returncode == 2


def run_in_shell(redirection: str, argument: str = "--version") -> subprocess.CompletedProcess[str]:
    """`genai ARGUMENT` with a redirection as shells write it."""
    code = f"from genai.cli import main; main.main([{argument!r}])"
    command = ["sh", "-c", f'"$0" -c "$1" {redirection}', sys.executable, code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_usage_error_class_is_what_typer_raises() -> None:
    assert issubclass(typer.BadParameter, main._UsageError)
    assert main._UsageError.__name__ == "UsageError"
