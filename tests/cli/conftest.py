"""A command line to call, and a model that says what it is told to."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import pytest

import genai.llm.llm
from genai import Choice, Chunk, Drafts, Generation, Timings, TokenLogprob, Usage
from genai.cli.main import exit_code

# Zero where the command line says nothing about it, whatever else is measured some day.
TIMINGS = Timings(
    **{item.name: 0 for item in dataclasses.fields(Timings)}
    | {"time_to_first_token": 0.25, "prefill_seconds": 0.2, "decode_seconds": 0.1, "tokens_per_second": 20.0}
)


@dataclass(slots=True)
class FakeLLM:
    """Answers every prompt with `words`, or with `choices` and `chunks`; remembers the calls.

    before: called ahead of each word.
    """

    words: Sequence[str] = ("Hello", ", ", "wörld", "!")
    has_chat_template: bool = True
    choices: Sequence[Choice] = ()
    chunks: Sequence[Chunk] = ()
    drafts: Drafts | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None
    path: Path = Path("/package")
    before: Callable[[str], object] = lambda word: None
    loaded: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    calls: list[tuple[object, dict[str, object]]] = field(default_factory=list)
    num_closed_streams: int = 0
    is_closed: bool = False

    @property
    def tokenizer(self) -> object:
        return SimpleNamespace(has_chat_template=self.has_chat_template, token_bytes=lambda token: b"<%d>" % token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.is_closed = True

    def generate(self, prompt: object, config: None = None, **options: object) -> Generation:
        self.calls.append((prompt, options))
        return self.result("".join(self.words))

    def stream(self, prompt: object, config: None = None, **options: object) -> Iterator[Chunk]:
        self.calls.append((prompt, options))
        return self._pieces()

    def _pieces(self) -> Iterator[Chunk]:
        try:
            yield from self.chunks
            for word in self.words:
                self.before(word)
                yield Chunk(text=word, token_ids=[1])
            yield Chunk(text="", token_ids=[], finish_reason="stop", result=self.result("".join(self.words)))
        finally:
            self.num_closed_streams += 1

    def result(self, text: str) -> Generation:
        return Generation(
            choices=[*self.choices] or [Choice(index=0, text=text, token_ids=[1, 2, 3], finish_reason="stop")],
            drafts=self.drafts,
            prompt_logprobs=self.prompt_logprobs,
            usage=Usage(prompt_tokens=5, completion_tokens=3, cached_tokens=2),
            timings=TIMINGS,
        )


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> FakeLLM:
    """The model that every name loads."""
    fake = FakeLLM()

    def load(name: str, **options: object) -> FakeLLM:
        options.pop("progress")
        fake.loaded.append((name, options))
        return fake

    monkeypatch.setattr(genai.llm.llm, "load", load)
    return fake


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


Genai = Callable[..., Outcome]


@pytest.fixture
def run_genai(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Genai:
    """Call the command line in this process: arguments, and bytes on standard input."""
    monkeypatch.setenv("GENAI_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GENAI_DEBUG", raising=False)

    def call(*arguments: object, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        capsys.readouterr()
        code = exit_code([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code=code, out=captured.out, err=captured.err)

    return call
