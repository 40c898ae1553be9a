"""What tells conversations apart: the same at each turn, and other for others, whatever has come of the body."""

from __future__ import annotations

import json

import pytest

from server.cluster.keys import BEGINNING, Asked, asked, session_of

SYSTEM = {"role": "system", "content": "Be brief."}


def told(**body: object) -> Asked:
    return asked(json.dumps(body).encode(), is_whole=True)


def turns(question: str, count: int = 1, **more: object) -> Asked:
    messages = [SYSTEM, {"role": "user", "content": question}]
    for number in range(1, count):
        messages += [{"role": "assistant", "content": f"{number}"}, {"role": "user", "content": "and?"}]
    return told(model="m", messages=messages, **more)


def test_a_conversation_has_one_key_at_all_turns() -> None:
    assert turns("Who?").key == turns("Who?", 2).key == turns("Who?", 9).key
    assert turns("Who?").key != turns("What?").key
    assert turns("Who?").model == "m"


def test_only_the_beginning_of_each_part_counts() -> None:
    long = "x" * BEGINNING
    assert turns(long + "a").key == turns(long + "b").key
    assert turns(long[1:] + "a").key != turns(long[1:] + "b").key


def test_a_long_system_prompt_does_not_make_all_conversations_one() -> None:
    system = {"role": "system", "content": "rules " * 10_000}
    keys = {told(messages=[system, {"role": "user", "content": f"{each}"}]).key for each in range(5)}
    assert len(keys) == 5


@pytest.mark.parametrize(
    "body",
    [
        {"input": "What is it?"},
        {"instructions": "Be brief.", "input": [{"role": "user", "content": "What is it?"}]},
        {"system": [{"type": "text", "text": "Be brief."}], "messages": [{"role": "user", "content": "Hi"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url"}]}]},
        {"prompt": "Once upon"},
        {"prompt": [1, 2, 3]},
    ],
)
def test_every_api_has_a_beginning(body: dict[str, object]) -> None:
    assert told(**body).key


def test_texts_and_parts_of_texts_are_the_same() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    assert told(messages=[{"role": "user", "content": parts}]) == told(messages=[{"role": "user", "content": "Hello"}])


def test_a_clients_own_key_goes_first() -> None:
    assert turns("a", prompt_cache_key="k").key == turns("b", prompt_cache_key="k").key
    assert told(previous_response_id="resp_1").previous == "resp_1"


@pytest.mark.parametrize("cut", [60, 200, 1500])
def test_a_body_that_has_not_come_whole(cut: int) -> None:
    """What is there of it counts: a cut in the middle of a text that is long enough changes nothing."""
    messages = [{"role": "user", "content": "q" * 1000}, {"role": "assistant", "content": "a" * 1000}]
    whole = json.dumps({"model": "m", "messages": messages}).encode()
    part = asked(whole[:cut], is_whole=False)
    assert part.model == "m"
    if cut > BEGINNING + 60:
        assert part.key == asked(whole, is_whole=True).key


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b"\xff", b'{"messages": 3, "model": 4}', b'{"messages": [null]}'])
def test_what_is_no_request_is_left_to_the_server(body: bytes) -> None:
    assert asked(body, is_whole=True).model is None


def test_headers_name_sessions_before_users() -> None:
    headers = [(b"X-User-Id", b"u"), (b"X-Session-ID", b"s")]
    assert session_of(headers) == "x-session-id=s"
    assert session_of(headers[:1]) == "x-user-id=u"
    assert session_of([(b"session_id", b"c")]) == "session-id=c"
    assert session_of([(b"accept", b"*/*"), (b"x-session-id", b"")]) is None
