"""How the driver talks to a peer: one process each, one JSON object a line, a request and then its reply.

    → {"op": "load", "gguf": "…", "hf_folder": "…", "threads": 2, …}  ← {"ok": {"version": "0.18.0", "seconds": 1.2}}
    → {"op": "prefill", "tokens": [12, 7, …]}                          ← {"ok": {"seconds": 0.31}}
    → {"op": "start", "prompts": [[12, 7, …], …]}                      ← {"ok": {}}
    → {"op": "decode", "steps": 8}                                     ← {"ok": {"seconds": [0.011, …]}}
    → {"op": "stop"}                                                   ← {"ok": {}}
    → {"op": "ragged", "prompts": [[12, 7, …], …], "counts": [16, …]}  ← {"ok": {"seconds": 41.3}}
    → {"op": "logits", "tokens": [12, 7, …], "path": "….npy"}          ← {"ok": {"path": "….npy"}}
    → {"op": "memory"}                                                 ← {"ok": {"rss": 1, "peak": 2}}
    → {"op": "quit"}                                                   ← {"ok": {}}
                                            whatever goes wrong:       ← {"error": "ValueError: …"}

Between `start` and `stop` a peer holds its batch, so that the driver can measure a few steps of one peer, then of the
next, all in one state. This half runs in the peers' environments and needs only numpy and psutil.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Protocol, TextIO, TypeAlias

import numpy as np
import numpy.typing as npt

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
Request: TypeAlias = tuple[list[int], int]
"""A prompt, and how many tokens its answer has."""

OPERATIONS = ("load", "prefill", "start", "decode", "stop", "ragged", "logits", "memory", "quit")


class ProtocolError(ValueError):
    """A line that is not a request or not a reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What a peer needs to load the model.

    gguf: the weights; hf_folder: the same weights in float32 as a Hugging Face folder; package: our own package of
    them; work: a folder where a peer may keep what it builds; max_length: longest sequence; max_batch: most rows.
    """

    gguf: str
    hf_folder: str
    package: str
    work: str
    precision: str
    threads: int
    max_length: int
    max_batch: int


class Peer(Protocol):
    """A decoding runtime under test. Tokens are chosen greedily and never end a sequence."""

    def load(self, options: LoadOptions) -> str:
        """Load the model; returns the peer's version."""
        ...

    def prefill(self, tokens: list[int]) -> float:
        """Seconds from a prompt to its first token, nothing cached."""
        ...

    def start(self, prompts: list[list[int]]) -> None:
        """Prefill a batch of prompts of equal length and hold it."""
        ...

    def decode(self, steps: int) -> list[float]:
        """Seconds of each of the next steps of the batch held."""
        ...

    def stop(self) -> None:
        """Let the batch go."""
        ...

    def ragged(self, requests: list[Request]) -> float:
        """Seconds until all of these are answered in full, nothing cached: the first as well as the last.

        Ours gets them all at once; a peer runs one after another, as `one_by_one` does.
        """
        ...

    def logits(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        """Teacher-forced logits [T, V]. Raises: NotImplementedError if the peer does not give them."""
        ...


def one_by_one(peer: Peer, requests: list[Request]) -> float:
    """Seconds that a peer takes for requests, one after another; the prompt's own step gives the first token."""
    started = perf_counter()
    for prompt, count in requests:
        peer.start([prompt])
        peer.decode(count - 1)
        peer.stop()
    return perf_counter() - started


def parse_request(line: str) -> tuple[str, dict[str, JSON]]:
    """An operation and its arguments. Raises: ProtocolError."""
    message = _parsed(line)
    operation = message.pop("op", None)
    if not isinstance(operation, str) or operation not in OPERATIONS:
        raise ProtocolError(f"op={operation!r}: must be one of {', '.join(OPERATIONS)}")
    return operation, message


def parse_reply(line: str) -> dict[str, JSON]:
    """What a request returned. Raises: RuntimeError with the peer's own error, ProtocolError."""
    message = _parsed(line)
    if "error" in message:
        raise RuntimeError(str(message["error"]))
    result = message.get("ok")
    if not isinstance(result, dict):
        raise ProtocolError(f"neither 'ok' nor 'error' in {line[:200]!r}")
    return result


def serve(peer: Peer) -> None:
    """Answer the driver's requests on standard input until it quits or goes away."""
    replies = _private_output()
    for line in sys.stdin:
        operation = None
        try:
            operation, arguments = parse_request(line)
            reply: dict[str, JSON] = {"ok": answer(peer, operation, arguments)}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
        if operation == "quit":
            return


def answer(peer: Peer, operation: str, arguments: Mapping[str, JSON]) -> dict[str, JSON]:
    """Do one operation."""
    if operation == "load":
        started = perf_counter()
        version = peer.load(LoadOptions(**arguments))  # type: ignore[arg-type]
        return {"version": version, "seconds": perf_counter() - started}
    if operation == "prefill":
        return {"seconds": peer.prefill(_tokens(arguments["tokens"]))}
    if operation == "start":
        peer.start(_prompts(arguments["prompts"]))
    elif operation == "decode":
        return {"seconds": list(peer.decode(int(str(arguments["steps"]))))}
    elif operation == "stop":
        peer.stop()
    elif operation == "ragged":
        requests = zip(_prompts(arguments["prompts"]), _tokens(arguments["counts"]), strict=True)
        return {"seconds": peer.ragged(list(requests))}
    elif operation == "logits":
        path = str(arguments["path"])
        np.save(path, peer.logits(_tokens(arguments["tokens"])))
        return {"path": path}
    elif operation == "memory":
        return _memory()
    return {}


def _memory() -> dict[str, JSON]:
    """Resident bytes of this process, now and at most."""
    import resource

    import psutil

    status = Path("/proc/self/status")  # ru_maxrss would begin with what the driver took when it forked
    peaks = [line.split()[1] for line in _lines(status) if line.startswith("VmHWM:")]
    peak = int(peaks[0]) if peaks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"rss": psutil.Process().memory_info().rss, "peak": peak * 1024}


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def _private_output() -> TextIO:
    """Standard output for replies alone: what libraries print goes to standard error."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def _parsed(line: str) -> dict[str, JSON]:
    try:
        message = json.loads(line)
    except ValueError as error:
        raise ProtocolError(f"not JSON ({error}): {line[:200]!r}") from None
    if not isinstance(message, dict):
        raise ProtocolError(f"not a JSON object: {line[:200]!r}")
    return message


def _prompts(value: JSON) -> list[list[int]]:
    assert isinstance(value, list)
    return [_tokens(prompt) for prompt in value]


def _tokens(value: JSON) -> list[int]:
    assert isinstance(value, list)
    return [int(str(token)) for token in value]
