"""Tool calls through a whole (tiny) model: what the request asks for is what the result has, in every format."""

from __future__ import annotations

import json
from collections.abc import Iterator

import jsonschema
import pytest

from genai.config import EngineConfig
from genai.errors import ConfigError
from genai.llm.llm import LLM
from tests.chat.tool_models import CHATML, GRANITE, LLAMA, MISTRAL, MISTRAL_NAMED, QWEN, tokenizer_with
from tests.tiny_package import tiny_package

CHAT = [{"role": "user", "content": "Hi"}]
PLACE = {
    "type": "object",
    "properties": {"place": {"enum": ["here", "}<\"'", "Zürich"]}, "days": {"enum": [1, 9]}},
    "required": ["place"],
}
MARKERS = {
    QWEN: "<tool_call>",
    CHATML: "<tool_call>",
    GRANITE: "<|tool_call|>",
    MISTRAL: "[TOOL_CALLS]",
    MISTRAL_NAMED: "[TOOL_CALLS]",
    LLAMA: None,
}
NAMES = {QWEN: "qwen", CHATML: "chatml", GRANITE: "granite", MISTRAL: "mistral", MISTRAL_NAMED: "named", LLAMA: "llama"}


def function(name: str, schema: object, *, strict: bool = False) -> dict[str, object]:
    return {"type": "function", "function": {"name": name, "parameters": schema, "strict": strict}}


def chosen(name: str) -> dict[str, object]:
    return {"type": "function", "function": {"name": name}}


@pytest.fixture(scope="module", params=MARKERS, ids=NAMES.get)
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    folder = tiny_package(tmp_path_factory.mktemp("tools"), tokenizer=tokenizer_with(request.param))
    with LLM(folder, EngineConfig(device="cpu", max_batch=2, num_threads=1, max_seq_len=1500)) as loaded:
        yield loaded


def token(llm: LLM, text: str) -> int:
    found = llm.tokenizer.token_to_id(text)
    assert found is not None
    return found


def options(llm: LLM, **biases: float) -> dict[str, object]:
    """Greedy, without reasoning (which a random model never ends), and ending where it may."""
    bias = {token(llm, "<think>"): -100.0, token(llm, "[THINK]"): -100.0, llm.config.eos_token_ids[0]: 9.0}
    bias |= {token(llm, text): value for text, value in biases.items()}
    return {"max_new_tokens": 400, "logit_bias": bias}


@pytest.mark.parametrize("choice", ["required", "named"])
def test_forced_calls_are_written_with_the_models_own_markers(llm: LLM, choice: str) -> None:
    tools = [function("get_place", PLACE), function("get_now", None)]
    tool_choice = choice if choice == "required" else chosen("get_place")
    for sampled in ({}, {"temperature": 1.0, "seed": 1}, {"temperature": 1.0, "seed": 2}):
        result = llm.generate(CHAT, tools=tools, tool_choice=tool_choice, **options(llm), **sampled)
        assert result.finish_reason == "stop"
        assert result.text == ""
        assert result.tool_calls
        for call in result.tool_calls:
            schema = PLACE if call.name == "get_place" else {"maxProperties": 0}
            jsonschema.validate(json.loads(call.arguments), schema)
        if choice == "named":
            assert [call.name for call in result.tool_calls] == ["get_place"]
        marker = MARKERS[llm.tokenizer.chat_template]
        if marker is not None:
            assert result.token_ids[0] == token(llm, marker), "the one token that the model has learnt"


def test_forced_calls_after_reasoning(llm: LLM) -> None:
    if "<think>" not in [known.open for known in llm._preparer.answer_format.reasoning]:
        pytest.skip("its template knows no reasoning")
    biases = {"<think>": 90.0, "</think>": 12.0}
    result = llm.generate(CHAT, tools=[function("get", PLACE)], tool_choice="required", **options(llm, **biases))
    assert result.token_ids[0] == token(llm, "<think>")
    assert token(llm, "</think>") in result.token_ids
    assert [call.name for call in result.tool_calls] == ["get"]


def test_strict_tools_are_held_to_their_schema_from_the_marker_on(llm: LLM) -> None:
    tools = [function("get_place", PLACE, strict=True)]
    text = llm.generate(CHAT, tools=tools, **{**options(llm), "max_new_tokens": 5, "min_new_tokens": 5})
    assert text.tool_calls == ()
    assert text.text
    marker = MARKERS[llm.tokenizer.chat_template]
    asked = {**options(llm, **{marker or "{": 60.0}), "parallel_tool_calls": False}
    result = llm.generate(CHAT, tools=tools, **asked)
    assert result.finish_reason == "stop"
    assert result.tool_calls
    for call in result.tool_calls:
        jsonschema.validate(json.loads(call.arguments), PLACE)
    streamed = [delta for piece in llm.stream(CHAT, tools=tools, **asked) for delta in piece.tool_calls]
    assert "".join(delta.arguments for delta in streamed) == result.tool_calls[0].arguments


def test_a_schema_that_no_grammar_follows_binds_strict_tools_only(llm: LLM) -> None:
    odd = {"type": "object", "properties": {"a": {"type": "string", "not": {"const": "b"}}}}
    asked = {**options(llm, **{"}": 50.0}), "tool_choice": "required", "parallel_tool_calls": False}
    result = llm.generate(CHAT, tools=[function("f", odd)], **asked)
    assert [(call.name, call.arguments) for call in result.tool_calls] == [("f", "{}")]
    for others in ([], [function("g", PLACE, strict=True)], [function("g", odd)]):
        refusal = "^tools: no grammar can follow them [(]strict: f[^)]*[)]: json_schema: 'not' at #/properties/a is not"
        with pytest.raises(ConfigError, match=refusal):
            llm.generate(CHAT, tools=[function("f", odd, strict=True), *others], **asked)
    mixed = [function("f", odd), function("g", PLACE, strict=True)]
    result = llm.generate(CHAT, tools=mixed, **{**asked, "tool_choice": chosen("g")})
    assert [call.name for call in result.tool_calls] == ["g"]
    jsonschema.validate(json.loads(result.tool_calls[0].arguments), PLACE)
    with pytest.raises(ConfigError, match="maximum context length"):  # a grammar follows them all
        llm.generate(CHAT, tools=[function(f"f{n}_{'x' * 50}", odd) for n in range(600)], **asked)


def test_a_model_that_repeats_its_call_is_stopped(llm: LLM) -> None:
    tools = [function("get", {"type": "object", "properties": {"place": {"const": "here"}}, "required": ["place"]})]
    unwanted = [*map(token, [llm] * 4, ["<think>", "[THINK]", "Ġ", "Ċ"]), llm.config.eos_token_ids[0]]
    options = {"max_new_tokens": 1000, "logit_bias": dict.fromkeys(unwanted, -100.0)}
    result = llm.generate(CHAT, tools=tools, tool_choice="required", **options)
    assert len(result.tool_calls) in (1, 2), "though it would go on, call for call"
    assert (result.finish_reason, result.text) == ("stop", "")
    pieces = list(llm.stream(CHAT, tools=tools, tool_choice="required", **options))
    begun = [call.id for piece in pieces for call in piece.tool_calls if call.id is not None]
    assert len(begun) == len(result.tool_calls)
