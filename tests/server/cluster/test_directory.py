"""Which application has a model, and how often that is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from server.cluster.directory import Directory, Entry, route_of, with_model
from server.settings import Settings

ROOT = Entry(app="genai", route="/", models={"small": ["gpt-*", "tiny"]}, fallback="small")
BIG = Entry(app="genai-org/big", route="/~org~big", models={"org/big": ["claude-*"]})


def test_entries_are_what_settings_say_and_travel_as_json() -> None:
    model = {"source": "x", "aliases": ["b"], "adapters": {"mine": "there"}}
    entry = Entry.of("genai", "/", Settings.model_validate({"models": {"a": model}, "fallback_model": "a"}))
    assert entry == Entry(app="genai", route="/", models={"a": ["b", "mine"]}, fallback="a")
    assert Entry.from_json(entry.to_json()) == entry
    assert len({ROOT.mark, BIG.mark}) == 2


def test_routes_have_no_slash_of_a_name() -> None:
    assert [route_of("org/big", number) for number in (0, 1)] == ["/", "/~org~big"]


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        (None, ROOT),
        ("small", ROOT),
        ("org/big", BIG),
        ("org/big:latest", BIG),
        ("claude-haiku", BIG),
        ("gpt-9", ROOT),
        ("nobody", ROOT),
    ],
)
def test_a_model_is_found_as_a_server_finds_it(name: str | None, entry: Entry) -> None:
    assert with_model([BIG, ROOT], name) is entry


def test_nobodys_model_goes_where_the_fallback_is() -> None:
    plain, fallback = (
        Entry(app="a", route="/", models={"a": []}),
        Entry(app="b", route="/~b", models={"b": []}, fallback="b"),
    )
    assert with_model([plain, fallback], "x") is fallback
    assert with_model([plain], "x") is plain
    assert with_model([], "x") is None


@pytest.mark.anyio
async def test_entries_are_read_once_for_a_while() -> None:
    reads: list[int] = []
    now = [0.0]

    def read() -> Sequence[Entry]:
        reads.append(1)
        return [ROOT]

    directory = Directory(read, clock=lambda: now[0])
    assert await asyncio.gather(directory.entries(), directory.entries()) == [[ROOT], [ROOT]]
    assert await directory.entries() == [ROOT]
    assert len(reads) == 1
    now[0] = 6.0
    assert await directory.entries() == [ROOT], "as it was known, while it is read anew"
    await asyncio.sleep(0.05)
    assert len(reads) == 2


@pytest.mark.anyio
async def test_a_directory_that_cannot_be_read_is_asked_again() -> None:
    def read() -> Sequence[Entry]:
        raise ConnectionError("not now")

    directory = Directory(read)
    assert await directory.entries() == ()
