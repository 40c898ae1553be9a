"""What was asked of the processor when a package was loaded, kept for the next time: in `$GENAI_HOME/answers/`.

An answer is as good as what it depends on: the graph and its weights, the processor, ONNX Runtime, threads and options,
this code, and what the question itself adds (`facts`). All of it stands in the answer's file, whose name is its digest;
a file that says something else, or nothing that can be read, is as good as none. The folder may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from genai.config import CONFIG_FILE, EngineConfig, genai_home
from genai.runtime.host import default_threads
from genai.runtime.ort import import_onnxruntime
from genai.runtime.providers.base import Provider

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

_MOST_FILES = 256
"""Kept answers; the oldest go."""


def answers_folder() -> Path:
    """Where answers are kept."""
    return genai_home() / "answers"


class Answers:
    """Those about one package, on this machine."""

    def __init__(self, facts: Mapping[str, object] | None, *, is_asked_anew: bool = False) -> None:
        """facts: what all of them depend on; None: nothing is kept. is_asked_anew: what was kept does not count."""
        self._facts = facts
        self._is_asked_anew = is_asked_anew

    @classmethod
    def about(cls, model: Path, config: EngineConfig, provider: Provider, *, is_asked_anew: bool = False) -> Answers:
        """Of a package's graph on a device; none is kept where the device's processor cannot be told."""
        processor = provider.processor()
        if processor is None:
            return cls(None)
        ort = import_onnxruntime()
        data = sorted(path for path in model.parent.iterdir() if path.name.startswith(model.name) and path.is_file())
        facts = {
            "graph": _digest(model),
            "package": _digest(model.with_name(CONFIG_FILE)),
            "files": [f"{path.name} {path.stat().st_size}" for path in data],
            "processor": processor,
            "runtime": f"{ort.__version__} {ort.get_build_info()}",
            "code": _code_digest(),
            "threads": config.num_threads or default_threads(),
            "cores": default_threads(),
            "options": {**provider.options, **config.session_options},
            "max_batch": config.max_batch,
        }
        return cls(facts, is_asked_anew=is_asked_anew)

    def to(self, question: str, sizes: Sequence[int]) -> KeptAnswer:
        """The answer to a question that was asked of a cache of these sizes."""
        if self._facts is None:
            return KeptAnswer(None)
        facts = {**self._facts, "question": question, "sizes": [*sizes]}
        return KeptAnswer(facts, is_asked_anew=self._is_asked_anew)


class KeptAnswer:
    """One question's answer. facts: all that it depends on; None: it is not kept.

    is_asked_anew: what was kept does not count.
    """

    def __init__(self, facts: Mapping[str, object] | None, *, is_asked_anew: bool = False) -> None:
        self._facts = facts
        self._is_asked_anew = is_asked_anew

    @property
    def value(self) -> JSON:
        """The answer; None if there is none."""
        if self._facts is None or self._is_asked_anew:
            return None
        try:
            kept = json.loads(self._path().read_text(encoding="utf-8"))
            os.utime(self._path())  # what is used stays longest
        except (OSError, ValueError, RecursionError):
            return None
        is_ours = isinstance(kept, dict) and kept.get("facts") == self._facts
        answer: JSON = kept.get("answer") if is_ours else None
        return answer

    def keep(self, answer: JSON) -> None:
        """Keep an answer for the next time. Losing it, to a full disk or a folder of others, only costs time then."""
        if self._facts is None:
            return
        path = self._path()
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".", ignore_cleanup_errors=True) as place:
                written = Path(place, path.name)
                written.write_text(json.dumps({"facts": self._facts, "answer": answer}, indent=1), encoding="utf-8")
                os.replace(written, path)
            files = sorted(path.parent.glob("*.json"), key=lambda file: file.stat().st_mtime)
            for file in files[:-_MOST_FILES]:
                file.unlink(missing_ok=True)

    def _path(self) -> Path:
        text = json.dumps(self._facts, sort_keys=True)
        return answers_folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


@functools.cache
def _code_digest() -> str:
    """Changes with any file of this package: what is asked, and of whom."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def _digest(file: Path) -> str | None:
    if not file.is_file():
        return None
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
