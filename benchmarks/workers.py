"""The driver's end of the protocol: a peer's process, asked one thing at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from benchmarks.measure import FloatArray
from benchmarks.protocol import JSON, LoadOptions, Request, parse_reply

ROOT = Path(__file__).resolve().parent.parent


class PeerError(Exception):
    """A peer that failed or died; the message is its own, or the end of its log. name: whose."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name} {message}")
        self.name = name


class Worker:
    """A peer's process. Use as a context manager, or call `close`.

    log: where what it prints goes; checkout: whose code it imports.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path, checkout: Path = ROOT) -> None:
        self.name = name
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        paths = [str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])]
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(paths),
                    "ORT_DISABLE_TELEMETRY": "1",
                    "HF_HUB_OFFLINE": "1",
                },
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def process_id(self) -> int:
        """The process that does the work."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process can still be asked."""
        return self._process.poll() is None

    def call(self, operation: str, **arguments: JSON) -> dict[str, JSON]:
        """Ask, and wait for the answer. Raises: PeerError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"op": operation, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            self._process.wait()
            raise PeerError(self.name, f"died in {operation!r}: {self._last_words()}")
        try:
            return parse_reply(line)
        except (RuntimeError, ValueError) as error:
            raise PeerError(self.name, f"cannot {operation}: {error}") from None

    def load(self, options: LoadOptions) -> tuple[str, float]:
        """Load the model; returns the peer's version and the seconds that it took."""
        reply = self.call("load", **dataclasses.asdict(options))
        return str(reply["version"]), _seconds(reply["seconds"])

    def prefill(self, tokens: list[int]) -> float:
        """Seconds from a prompt to its first token."""
        return _seconds(self.call("prefill", tokens=list(tokens))["seconds"])

    def start(self, prompts: list[list[int]]) -> None:
        """Prefill a batch and hold it."""
        self.call("start", prompts=[list(prompt) for prompt in prompts])

    def decode(self, steps: int) -> list[float]:
        """Seconds of each of the next steps."""
        seconds = self.call("decode", steps=steps)["seconds"]
        assert isinstance(seconds, list)
        return [_seconds(each) for each in seconds]

    def stop(self) -> None:
        """Let the batch go."""
        self.call("stop")

    def ragged(self, requests: Sequence[Request]) -> float:
        """Seconds until all of these are answered in full."""
        reply = self.call(
            "ragged", prompts=[list(prompt) for prompt, _ in requests], counts=[count for _, count in requests]
        )
        return _seconds(reply["seconds"])

    def logits(self, tokens: list[int], path: Path) -> FloatArray:
        """Teacher-forced logits [T, V], by way of a file."""
        self.call("logits", tokens=list(tokens), path=str(path))
        logits: FloatArray = np.load(path)
        path.unlink()
        return logits

    def memory(self) -> tuple[int, int]:
        """Resident bytes, now and at most."""
        reply = self.call("memory")
        return int(_seconds(reply["rss"])), int(_seconds(reply["peak"]))

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            try:
                self.call("quit")
                self._process.wait(10)
            except (PeerError, subprocess.TimeoutExpired):
                self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # a request that nobody read is still in the buffer
                if stream:
                    stream.close()

    def _last_words(self) -> str:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][-300:] if lines else f"nothing in {self._log}"


def _seconds(value: JSON) -> float:
    assert isinstance(value, int | float)
    return float(value)
