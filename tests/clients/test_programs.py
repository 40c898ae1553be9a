"""Programs on the libraries that people write them with."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.clients.conftest import CALLS, DONE, Clients
from tests.clients.documented import assert_documented

pytestmark = pytest.mark.slow

PROGRAMS = ["ai-sdk", "instructor", "langchain-openai", "litellm", "openai-agents", "pydantic-ai"]


def assert_is_city(value: object) -> None:
    assert isinstance(value, dict)
    assert value.keys() == {"city", "is_capital"}
    assert isinstance(value["city"], str)
    assert isinstance(value["is_capital"], bool)


def assert_has_called(value: object) -> None:
    """The model, made to call or written to, has called (SmolLM2 likes to do so twice); then it has said something."""
    assert isinstance(value, dict)
    assert value["calls"]
    assert all(isinstance(call["city"], str) for call in value["calls"])
    assert value["text"]
    if value["text"] == DONE:
        assert value["calls"] == [CALLS["get_weather"]]


def assert_grows(value: object) -> None:
    """Parts of an object, ever more of it."""
    assert isinstance(value, list)
    assert len(value) > 2
    assert_is_city(value[-1])
    known = [{key for key, each in part.items() if each is not None} for part in value]
    assert all(before <= after for before, after in pairwise(known))


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str, clients: Clients, expected: str, tmp_path: Path) -> None:
    def assert_is_expected(value: object) -> None:
        assert value == expected

    def assert_is_in_pieces(value: object) -> None:
        assert isinstance(value, list)
        assert "".join(value) == expected
        assert len(value) > 5

    checks: dict[str, Callable[[object], None]] = {
        "plain": assert_is_expected,
        "stream": assert_is_in_pieces,
        "tool": assert_has_called,
        "object": assert_is_city,
        "object by tool": assert_is_city,
        "streamed object": assert_grows,
    }
    said = clients.program(name, tmp_path)
    for kinds in said.values():
        for kind, value in kinds.items():
            checks[kind](value)
    assert_documented(name, said)
