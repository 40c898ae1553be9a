"""Offline batches in OpenAI's batch file format: every line of IN gets one line of OUT, whatever happens in between.

    IN   {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [{"role": …}]}}
    OUT  {"id": "batch_req_1", "custom_id": "a", "response": {"status_code": 200, "body": {…}}, "error": null}

OUT is only appended to, in whole lines that are on the disk before work goes on. What is there when a batch begins is
not done again, and a last line without its end is cut off: so a batch that was killed is finished by starting it again.
Lines come in the order in which they are finished. A bad line's answer says so with status 400.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

from genai.batch.answer import answer
from genai.batch.request import (
    JSON,
    BatchEmbedding,
    BatchRequest,
    complaint,
    custom_id_of,
    read_line,
    request_of,
    status_of,
)
from genai.engine.sequence import Job
from genai.engine.streams import Follower
from genai.errors import ConfigError, GenAIError, RequestError
from genai.llm.llm import LLM
from genai.llm.reading import Reading
from genai.llm.together import QUEUED_PER_ROW, Ready, Together
from genai.options.generation_config import GenerationConfig
from genai.progress import Progress, silent
from genai.replies.embeddings import embeddings_reply

MAX_LINE_BYTES = 64 * 2**20
"""Longer lines are answered with an error and never held in memory."""


@dataclass(slots=True, kw_only=True)
class Summary:
    """What became of a batch: lines answered now, those of them with an error, and lines answered earlier."""

    answered: int = 0
    failed: int = 0
    skipped: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What holds for lines that do not say.

    options: of generation; template_options: variables for the chat template; draft: a model that foresees tokens.
    """

    options: Mapping[str, object] = field(default_factory=dict)
    template_options: Mapping[str, object] = field(default_factory=dict)
    draft: LLM | None = None


class BatchFile:
    """A batch and how far it is. Use as a context manager, or call `close`: OUT is locked against other processes.

    num_requests: lines of IN that are not blank; num_done: those that OUT answered when the batch was opened.
    Raises: ConfigError if IN cannot be read or names a request twice, or if OUT is no batch's or cannot be written.
    """

    def __init__(self, source: Path, target: Path) -> None:
        self.source, self.target = source, target
        keys = self._checked()
        self.num_requests = len(keys)
        self._out = _Appender(target, source)
        try:
            self._done = self._answered()
        except BaseException:
            self._out.close()
            raise
        self.num_done = len(keys & self._done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close OUT. Closing twice does nothing."""
        self._out.close()

    def run(self, llm: LLM, models: tuple[str, ...], settings: Settings, progress: Progress = silent) -> Summary:
        """Answer what is not answered yet.

        models: the names that lines may call it by; those of its adapters ask for these.
        Raises: ConfigError if a setting is wrong, an adapter is called as the model is, or OUT cannot be written.
        """
        if twice := llm.adapters.paths.keys() & {*models}:
            raise ConfigError(f"adapter {min(twice)!r} is called as the model is: give it another name")
        defaults = llm.generation_config.updated(**settings.options)
        summary = Summary(skipped=self.num_done)
        run = _Run(llm=llm, models=models, settings=settings, defaults=defaults, summary=summary)
        with self._opened() as file:
            pending = (line for line in _numbered(file) if line.key not in self._done)
            try:
                for records in run.answers(pending):
                    self._out.append(b"".join(records))
                    progress("requests", self.num_done + summary.answered, self.num_requests)
            finally:
                run.cancel()
        return summary

    def _checked(self) -> set[str]:
        """What tells the requests of IN apart."""
        numbers: dict[str, int] = {}
        with self._opened() as file:
            for line in _numbered(file):
                if line.key in numbers:
                    raise ConfigError(
                        f"{self.source} line {line.number}: custom_id {line.custom_id!r} is on line "
                        f"{numbers[line.key]} too; every request needs its own"
                    )
                numbers[line.key] = line.number
        return set(numbers)

    def _answered(self) -> set[str]:
        """What OUT answers already; a last line that is not whole is cut off."""
        done: set[str] = set()
        whole = 0
        with _reported(self.target, "read"), self.target.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    self._out.truncate(whole)
                    break
                done.add(self._key_of_record(line, number))
                whole += len(line)
        return done

    def _key_of_record(self, line: bytes, number: int) -> str:
        try:
            record = read_line(line)
        except RequestError:
            record = {}
        custom_id, name = record.get("custom_id"), record.get("id")
        if not isinstance(name, str) or not isinstance(custom_id, str | None) or "response" not in record:
            raise ConfigError(f"{self.target} line {number} is no answer of a batch; name another file, or remove it")
        return _key(custom_id, name)

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        with _reported(self.source, "read"):
            if self.source.exists() and not self.source.is_file():
                raise ConfigError(f"{self.source} is not a file; requests are read more than once")
            file = self.source.open("rb")
        with file:
            yield file


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A line of IN: its JSON, or what is wrong with it."""

    number: int
    custom_id: str | None = None
    data: dict[str, JSON] = field(default_factory=dict)
    error: RequestError | None = None

    @property
    def name(self) -> str:
        return f"batch_req_{self.number}"

    @property
    def key(self) -> str:
        """What tells it from other lines, in OUT too."""
        return _key(self.custom_id, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Body:
    """The body of an answer, and tokens."""

    body: dict[str, JSON]
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pending:
    """A line whose request is in the engine. body: that of the answer, once the job is over."""

    line: _Line
    job: Job
    body: Callable[[Job], _Body]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """Lines through the engine, a bounded number at a time. ended: the numbers of those that have their text."""

    llm: LLM
    models: tuple[str, ...]
    settings: Settings
    defaults: GenerationConfig
    summary: Summary
    pending: dict[int, _Pending] = field(default_factory=dict)
    ended: SimpleQueue[int] = field(default_factory=SimpleQueue)

    def answers(self, lines: Iterator[_Line]) -> Iterator[list[bytes]]:
        """Records of OUT as they come, some at a time. Raises: ConfigError once the model is closed."""
        while (records := self._submitted(lines)) or self.pending:
            records = records or [self._finished(number) for number in self._awaited()]
            if self.llm.loop.is_closed:  # what failed by that is not written: the next run is to try it again
                raise ConfigError("the model was closed in between; start the batch again to finish it")
            yield records

    @property
    def _num_rows(self) -> int:
        return self.llm.engine_config.max_batch

    def cancel(self) -> None:
        """End what is in the engine."""
        for each in self.pending.values():
            self.llm.loop.cancel(each.job)
        self.llm.loop.settle()

    def _awaited(self) -> list[int]:
        """Those that have ended, at least one."""
        numbers = [self.ended.get()]
        while not self.ended.empty():
            numbers.append(self.ended.get())
        return numbers

    def _submitted(self, lines: Iterator[_Line]) -> list[bytes]:
        """Fill the engine up; returns the records of lines that it cannot take, or that are answered at once."""
        records: list[bytes] = []
        while len(self.pending) + len(records) < QUEUED_PER_ROW * self._num_rows:
            if (line := next(lines, None)) is None:
                break
            try:
                records += self._submit(line)
            except GenAIError as error:
                records.append(self._failed(line, error))
            except RecursionError:
                records.append(self._failed(line, RequestError("the line is nested too deep")))
        return records

    def _submit(self, line: _Line) -> list[bytes]:
        if line.error is not None:
            raise line.error
        request = request_of(line.data, (*self.models, *self.llm.adapters.paths))
        if isinstance(request, BatchEmbedding):
            return self._embed(line, request)
        self._generate(line, request)
        return []

    def _embed(self, line: _Line, request: BatchEmbedding) -> list[bytes]:
        """One text joins what is in the engine; several are a batch of their own, which is waited for."""
        body = request.body
        asked = self.llm.embedder.ask(
            body.texts, dimensions=body.dimensions, prompt_name=body.prompt_name, truncate=bool(body.truncate)
        ).with_adapter(self.llm.adapters.get(self._adapter(request)))

        def told(readings: Sequence[Reading]) -> _Body:
            outcome = asked.outcome(readings)
            reply = embeddings_reply(outcome, request.model, is_base64=body.encoding_format == "base64")
            return _Body(body=cast("dict[str, JSON]", reply), prompt_tokens=outcome.prompt_tokens, completion_tokens=0)

        if len(asked.requests) > 1:
            return [self._answered(line, told(Together(self.llm.loop, asked.requests, self._num_rows).results()))]
        (only,) = asked.requests
        self._enter(line, only, lambda job: told([only.writer.result(job)]))
        return []

    def _generate(self, line: _Line, request: BatchRequest) -> None:
        chat = request.chat
        if request.kind == "chat" and self.settings.template_options:
            chat |= {"template_options": {**self.settings.template_options, **(chat.get("template_options") or {})}}
        arguments: dict[str, Any] = {**chat, **request.options, "draft": self.settings.draft}
        prepared = self.llm.prepare(request.prompt, self.defaults, adapter=self._adapter(request), **arguments)

        def told(job: Job) -> _Body:
            result = prepared.writer.result(job)
            first_token = prepared.request.prompt[0]
            return _Body(
                body=answer(request, result, self.llm.tokenizer, first_token),
                prompt_tokens=result.usage.prompt_tokens,
                completion_tokens=result.usage.completion_tokens,
            )

        self._enter(line, prepared, told)

    def _adapter(self, request: BatchRequest | BatchEmbedding) -> str | None:
        """The adapter that a line asks for by its name, as its model."""
        return None if request.model in self.models else request.model

    def _enter(self, line: _Line, ready: Ready[object], body: Callable[[Job], _Body]) -> None:
        follower = Follower(ready.writer, partial(self.ended.put, line.number))
        job = self.llm.loop.submit(ready.request, follower)
        self.pending[line.number] = _Pending(line=line, job=job, body=body)

    def _finished(self, number: int) -> bytes:
        pending = self.pending.pop(number)
        try:
            body = pending.body(pending.job)
        except GenAIError as error:
            return self._failed(pending.line, error)
        return self._answered(pending.line, body)

    def _answered(self, line: _Line, told: _Body) -> bytes:
        self.summary.answered += 1
        self.summary.prompt_tokens += told.prompt_tokens
        self.summary.completion_tokens += told.completion_tokens
        return _record(line, 200, told.body)

    def _failed(self, line: _Line, error: GenAIError) -> bytes:
        self.summary.answered += 1
        self.summary.failed += 1
        return _record(line, status_of(error), complaint(error))


def _record(line: _Line, status: int, body: dict[str, JSON]) -> bytes:
    """A line of OUT."""
    response: JSON = {"status_code": status, "request_id": f"req_{uuid.uuid4().hex}", "body": body}
    record: JSON = {"id": line.name, "custom_id": line.custom_id, "response": response, "error": None}
    try:
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can only escape
        return json.dumps(record).encode() + b"\n"


def _numbered(file: BinaryIO) -> Iterator[_Line]:
    """The lines of IN that are not blank; no more than one is held."""
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        is_too_long = not raw.endswith(b"\n") and len(raw) > MAX_LINE_BYTES
        while is_too_long and (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
            pass
        if is_too_long:
            yield _Line(number=number, error=RequestError(f"the line is longer than {MAX_LINE_BYTES:,} bytes"))
        elif raw.strip():
            yield _line(number, raw)


def _line(number: int, raw: bytes) -> _Line:
    try:
        data = read_line(raw)
        return _Line(number=number, custom_id=custom_id_of(data), data=data)
    except RequestError as error:
        return _Line(number=number, error=error)


def _key(custom_id: str | None, name: str) -> str:
    """What tells requests apart: the custom id, or, where there is none, the number of the line."""
    return f"line {name}" if custom_id is None else f"id {custom_id}"


class _Appender:
    """A file to append to, by one process at a time. Raises: ConfigError."""

    def __init__(self, path: Path, source: Path) -> None:
        self._path = path
        with _reported(path, "write"):
            if path.exists() and not path.is_file():
                raise ConfigError(f"{path} is not a file")
            if path.exists() and path.samefile(source):
                raise ConfigError(f"{path}: answers cannot be written over the requests; name another file")
            self._file = path.open("ab", buffering=0)
            self._lock()

    def append(self, data: bytes) -> None:
        """Add whole lines; they are on the disk on return."""
        with _reported(self._path, "write"):
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())

    def truncate(self, size: int) -> None:
        """Cut off what comes after so many bytes."""
        with _reported(self._path, "write"):
            self._file.truncate(size)

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # not on Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise ConfigError(f"{self._path} is being written by another process") from None


@contextmanager
def _reported(path: Path, verb: str) -> Iterator[None]:
    """Errors of the operating system as one line that names the file."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"cannot {verb} {path}: {error.strerror or error}") from None
