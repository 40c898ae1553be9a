"""`genai chat`, with its lines piped in, or typed by somebody."""

from __future__ import annotations

import os
import signal

import pytest

from genai.errors import CapacityError
from tests.cli.conftest import FakeLLM, Genai

ANSWER = "Hello, wörld!"


def said(*texts: str) -> list[dict[str, str]]:
    """Messages of user and assistant in turn."""
    return [{"role": "assistant" if number % 2 else "user", "content": text} for number, text in enumerate(texts)]


def prompts(llm: FakeLLM) -> list[object]:
    return [prompt for prompt, _ in llm.calls]


def test_turns_build_on_each_other(run_genai: Genai, llm: FakeLLM) -> None:
    outcome = run_genai("chat", "m", "-t", "0.7", stdin=b"one\n\ntwo\n")
    assert outcome.code == 0
    assert outcome.out == f"{ANSWER}\n{ANSWER}\n"
    assert outcome.err.count("2 from the cache") == 2
    assert prompts(llm) == [said("one"), said("one", ANSWER, "two")]
    assert llm.calls[0][1] == {"max_new_tokens": 1024, "temperature": 0.7}
    assert llm.is_closed


def test_commands(run_genai: Genai, llm: FakeLLM) -> None:
    lines = ["/help", "/system Be brief", "one", "/reset", "two", "/system", "three", "/fly", "/exit", "four"]
    outcome = run_genai("chat", "m", stdin="\n".join(lines).encode())
    system = {"role": "system", "content": "Be brief"}
    assert prompts(llm) == [[system, *said("one")], [system, *said("two")], said("three")]
    assert "/reset        forget" in outcome.err
    assert "no command /fly" in outcome.err


def type_lines(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Have a terminal on which somebody types these."""
    monkeypatch.setattr("genai.cli.chat.typed", lambda prompt: iter(lines))
    monkeypatch.setattr("genai.cli.chat._is_typed", lambda: True)


def test_interrupted_answer_stays_in_the_conversation(
    run_genai: Genai, llm: FakeLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(word: str) -> None:
        if word == "wörld" and len(llm.calls) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    llm.before = interrupt
    type_lines(monkeypatch, "one", "two")
    outcome = run_genai("chat", "m")
    assert outcome.code == 0
    assert outcome.out == f"Hello, wörld\n{ANSWER}\n"
    assert "\nstopped\n" in outcome.err
    assert prompts(llm)[1] == said("one", "Hello, wörld", "two")
    assert llm.num_closed_streams == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_second_interrupt_stops_at_once(run_genai: Genai, llm: FakeLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(word: str) -> None:
        if len(llm.calls) == 1:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    llm.before = interrupt
    type_lines(monkeypatch, "one", "two")
    outcome = run_genai("chat", "m")
    assert (outcome.code, outcome.out) == (0, f"\n{ANSWER}\n")


@pytest.mark.parametrize("num_signals", [1, 2])
def test_interrupt_leaves_where_nobody_types(run_genai: Genai, llm: FakeLLM, num_signals: int) -> None:
    def interrupt(word: str) -> None:
        for _ in range(num_signals):
            os.kill(os.getpid(), signal.SIGINT)

    llm.before = interrupt
    outcome = run_genai("chat", "m", stdin=b"one\ntwo\n")
    assert (outcome.code, len(llm.calls)) == (130, 1)
    assert llm.num_closed_streams == 1
    assert llm.is_closed


def test_pipe_that_is_not_utf8(run_genai: Genai, llm: FakeLLM) -> None:
    outcome = run_genai("chat", "m", stdin=b"one\nt\xffwo\n")
    assert outcome.code == 2
    assert outcome.err.endswith("genai: line 2 of standard input is not UTF-8\n")


def test_messages_of_several_lines(run_genai: Genai, llm: FakeLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    type_lines(monkeypatch, "/system Be\nbrief", "one\ntwo", "/* a comment */\nthree")
    run_genai("chat", "m")
    system = {"role": "system", "content": "Be\nbrief"}
    assert prompts(llm) == [[system, *said("one\ntwo")], [system, *said("one\ntwo", ANSWER, "/* a comment */\nthree")]]


def test_full_context_keeps_the_conversation(run_genai: Genai, llm: FakeLLM) -> None:
    def refuse(word: str) -> None:
        if len(llm.calls) == 2:
            raise CapacityError("too long")

    llm.before = refuse
    outcome = run_genai("chat", "m", stdin=b"one\ntwo\nthree\n")
    assert "too long (/reset begins anew)" in outcome.err
    assert prompts(llm)[2] == said("one", ANSWER, "three")


def test_model_without_template(run_genai: Genai, llm: FakeLLM) -> None:
    llm.has_chat_template = False
    outcome = run_genai("chat", "m")
    assert outcome.code == 2
    assert "m has no chat template; continue plain text with `genai run m --raw`" in outcome.err
