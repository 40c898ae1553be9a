"""`/tokenize` and `/detokenize`."""

from __future__ import annotations

import httpx
import pytest

from tests.server.fakes import FakeModel, app_with, serving
from tests.tiny_package import BEGIN_ID, END_ID, VOCAB_SIZE

pytestmark = pytest.mark.anyio

TOOL = {"type": "function", "function": {"name": "f"}}
HI = [{"role": "user", "content": "Hi"}]


async def ask(path: str, body: dict[str, object]) -> httpx.Response:
    async with serving(app_with(FakeModel())) as http:
        return await http.post(path, json=body)


async def test_a_text() -> None:
    body = (await ask("/tokenize", {"model": "fake", "prompt": "é!", "return_token_strs": True})).json()
    assert body == {"count": 3, "max_model_len": 64, "tokens": [0xC3, 0xA9, 33], "token_strs": ["�", "�", "!"]}
    assert (await ask("/tokenize", {"prompt": ""})).json()["tokens"] == []


async def test_a_conversation() -> None:
    whole = (await ask("/tokenize", {"messages": HI})).json()["tokens"]
    plain = (await ask("/tokenize", {"messages": HI, "add_generation_prompt": False})).json()["tokens"]
    assert plain == [BEGIN_ID, *b"user\nHi", END_ID]
    assert whole == [*plain, BEGIN_ID, *b"assistant\n"]
    begun = {"role": "assistant", "content": "The"}
    for body in (
        {"messages": [*HI, begun], "continue_final_message": True, "add_generation_prompt": False},
        {"messages": [*HI, {**begun, "prefix": True}]},
    ):
        assert (await ask("/tokenize", body)).json()["tokens"] == [*whole, *b"The"]


async def test_back_again() -> None:
    tokens = [BEGIN_ID, *"é!".encode(), END_ID]
    assert (await ask("/detokenize", {"tokens": tokens})).json()["prompt"] == "<|begin|>é!<|end|>"
    assert (await ask("/detokenize", {"tokens": tokens, "skip_special_tokens": True})).json() == {
        "prompt": "é!",
        "content": "é!",
    }
    assert (await ask("/detokenize", {"tokens": []})).json()["prompt"] == ""


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/tokenize", {}, "give either prompt or messages"),
        ("/tokenize", {"prompt": "a", "messages": HI}, "give either"),
        ("/tokenize", {"prompt": "a", "tools": [TOOL]}, "tools goes with messages"),
        (
            "/tokenize",
            {"messages": [{"role": "user", "content": "a"}], "add_special_tokens": True},
            "goes with a prompt",
        ),
        ("/tokenize", {"prompt": 5}, "must be a valid string"),
        ("/tokenize", {"prompt": "a", "n": 1, "echo": True, "tools": [TOOL]}, "tools goes"),
        ("/detokenize", {}, "tokens is missing"),
        ("/detokenize", {"tokens": [VOCAB_SIZE]}, "token id 258 is outside the vocabulary (0 to 257)"),
        ("/detokenize", {"tokens": [-1]}, "greater than or equal to 0"),
        ("/detokenize", {"tokens": ["1"]}, "valid integer"),
        ("/detokenize", {"tokens": [2**40]}, "less than"),
    ],
)
async def test_bad_requests(path: str, body: dict[str, object], message: str) -> None:
    answer = await ask(path, body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "continue_final_message", "self"])
async def test_template_variables_cannot_be_what_the_server_sets(name: str) -> None:
    answer = await ask("/tokenize", {"messages": HI, "chat_template_kwargs": {name: 1}})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "chat_template_kwargs"


async def test_in_llama_cpps_words() -> None:
    assert (await ask("/tokenize", {"content": "é!"})).json()["tokens"] == [0xC3, 0xA9, 33]
    pieces = (await ask("/tokenize", {"content": "a!", "with_pieces": True})).json()["tokens"]
    assert pieces == [{"id": 97, "piece": "a"}, {"id": 33, "piece": "!"}]
    assert (await ask("/tokenize", {"content": "a", "prompt": "b"})).status_code == 400
