"""The matrix: rows tried one after the other in a process of their own, which is started again when it dies."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import IO, Literal, TypeAlias

from genai.conformance.case import Case
from genai.conformance.probe import Result
from genai.errors import RuntimeUnavailableError
from genai.runtime.ort import import_onnxruntime
from genai.runtime.providers import provider_class

Device: TypeAlias = Literal["cpu", "cuda"]

_WORKER = (sys.executable, "-m", "genai.conformance.worker")
_PATIENCE = 60.0
"""Seconds that a row may take; the slowest takes two. On a busy machine it may wait as long: it is tried again once."""
_HOPELESS = 3
"""So many processes that end over their first row are no crashes of rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row and what came of it."""

    case: Case
    result: Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """What the installed runtime does. runtime: its name and release; provider: ONNX Runtime's name; onnx: the release
    of onnx whose reference was asked; has_timings: whether growth was looked at; unknown: a package's operators that
    there are no rows for.
    """

    runtime: str
    provider: str
    onnx: str
    rows: tuple[Row, ...]
    has_timings: bool = False
    unknown: tuple[str, ...] = ()


def check(
    cases: Sequence[Case],
    device: Device = "cpu",
    *,
    timings: bool = False,
    unknown: Iterable[str] = (),
    done: Callable[[int], None] | None = None,
    worker: Sequence[str] = _WORKER,
) -> Matrix:
    """Try rows on a device. done: told how many are done; worker: the command that tries them.

    Raises: RuntimeUnavailableError if graphs cannot run there, or if the first rows all end the process.
    """
    provider = provider_class(device)
    if reason := provider.missing():
        raise RuntimeUnavailableError(reason)
    ort = import_onnxruntime()
    command = [*worker, device, "SLOW" if timings else "QUICK"]
    rows: list[Row] = []
    num_ended, late = 0, ""
    while len(rows) < len(cases):
        with _process(command) as (process, said):
            for case in cases[len(rows) :]:
                result = _tried(process, case, said)
                if result is None and process.wait() == -signal.SIGKILL and late != case.name:
                    late = case.name
                    break
                if result is None:  # only this row: the next one gets a new process
                    message = _ended(process, said)
                    rows.append(Row(case=case, result=Result(how="failing", message=message)))
                    num_ended += 1
                    if num_ended == len(rows) == _HOPELESS:
                        raise RuntimeUnavailableError(f"no row can be tried on {provider.name}: {message}")
                else:
                    rows.append(Row(case=case, result=result))
                if done is not None:
                    done(len(rows))
                if result is None:
                    break
    return Matrix(
        runtime=f"onnxruntime {ort.__version__}",
        provider=provider.execution_provider,
        onnx=version("onnx"),
        rows=tuple(rows),
        has_timings=timings,
        unknown=tuple(unknown),
    )


@contextmanager
def _process(command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], IO[bytes]]]:
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True) as process,
    ):
        try:
            yield process, said
        finally:
            process.kill()


def _tried(process: subprocess.Popen[str], case: Case, said: IO[bytes]) -> Result | None:
    """A row's result; None if the process ended over it, or had to be ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    said.truncate(0)
    timer = threading.Timer(_PATIENCE, process.kill)
    timer.start()
    try:
        process.stdin.write(f"{case.name}\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        return None
    finally:
        timer.cancel()
    return Result(**json.loads(line)) if line.endswith("\n") else None


def _ended(process: subprocess.Popen[str], said: IO[bytes]) -> str:
    """How the process came to its end, and what it last said."""
    code = process.wait()
    if code == -signal.SIGKILL:
        return f"took longer than {_PATIENCE:.0f} s, or was killed"
    how = f"the process died with {signal.Signals(-code).name}" if code < 0 else f"the process ended with code {code}"
    said.seek(0)
    last = said.read().decode("utf-8", "replace").strip("\0 \n").rpartition("\n")[2]
    return f"{how}: {last[:200]}" if last else how
