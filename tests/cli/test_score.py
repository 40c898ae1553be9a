"""`genai score`."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.cli.conftest import FakeLLM, Genai

SCORES = np.array([0.25, 0.5], np.float32)


@pytest.fixture
def scored(llm: FakeLLM, monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What the model was asked."""
    calls: list[tuple[object, ...]] = []

    def score(query: str, documents: list[str], *, instruction: str | None) -> np.ndarray:
        calls.append((query, documents, instruction))
        return SCORES[: len(documents)]

    monkeypatch.setattr(type(llm), "score", staticmethod(score), raising=False)
    return calls


def test_a_line_for_each_document(run_genai: Genai, llm: FakeLLM, scored: list[tuple[object, ...]]) -> None:
    outcome = run_genai("score", "m", "which?", "one\ttext", "two", "--instruction", "find")
    assert (outcome.code, outcome.out) == (0, "0.250000\tone text\n0.500000\ttwo\n")
    assert scored == [("which?", ["one\ttext", "two"], "find")]
    assert llm.is_closed


def test_documents_from_standard_input_and_json(run_genai: Genai, scored: list[tuple[object, ...]]) -> None:
    for arguments in ([], ["-"]):
        outcome = run_genai("score", "m", "q", *arguments, "--json", stdin="Grüße\n\n two \n".encode())
        assert json.loads(outcome.out) == {"model": "m", "scores": [0.25, 0.5]}
    assert scored == [("q", ["Grüße", " two "], None)] * 2


def test_lines_end_as_lines_of_files_do(run_genai: Genai, scored: list[tuple[object, ...]]) -> None:
    """Not at what Unicode calls an end of a line, too: a document for each line of the file."""
    run_genai("score", "m", "q", stdin="one\x0cpage\r\ntwo\u2028lines".encode())
    assert scored == [("q", ["one\x0cpage", "two\u2028lines"], None)]


@pytest.mark.parametrize(
    ("stdin", "message"), [(b"\n \n", "no document: standard input has no line"), (b"\xff", "not UTF-8 (byte 0)")]
)
def test_no_documents(run_genai: Genai, scored: list[tuple[object, ...]], stdin: bytes, message: str) -> None:
    outcome = run_genai("score", "m", "q", stdin=stdin)
    assert outcome.code == 2
    assert message in outcome.err
    assert not scored
