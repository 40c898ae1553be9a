"""Reasoning through a whole (tiny) model: what bounds it, what follows it, what its template is told."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from genai.config import EngineConfig
from genai.errors import ConfigError
from genai.llm.llm import LLM
from tests.chat.tool_models import DEEPSEEK, QWEN, tokenizer_with
from tests.tiny_package import tiny_package

CHAT = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"], "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": "get", "parameters": SCHEMA, "strict": True}}]


@pytest.fixture(scope="module", params=[(QWEN, True), (QWEN, False), (DEEPSEEK, True), (DEEPSEEK, False)])
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    template, has_markers = request.param
    tokenizer = tokenizer_with(template, has_markers=has_markers)
    folder = tiny_package(tmp_path_factory.mktemp("reasoning"), tokenizer=tokenizer)
    with LLM(folder, EngineConfig(device="cpu", max_batch=2, num_threads=1, max_seq_len=1500)) as loaded:
        yield loaded


def opens_itself(llm: LLM) -> bool:
    return llm.tokenizer.render_chat(CHAT).endswith("<think>")


def end_of(llm: LLM) -> list[int]:
    return llm.tokenizer.encode("</think>", add_special_tokens=False)


@pytest.mark.parametrize("budget", [0, 1, 7])
def test_reasoning_ends_at_its_budget(llm: LLM, budget: int) -> None:
    if not opens_itself(llm):
        pytest.skip("a random model does not open it")
    eos = dict.fromkeys(llm.config.eos_token_ids, -100.0)
    bias = eos | dict.fromkeys(end_of(llm)[:1], -100.0)
    result = llm.generate(CHAT, reasoning_budget=budget, max_new_tokens=40, logit_bias=bias, stop_strings=["never"])
    end = end_of(llm)
    assert result.token_ids[budget : budget + len(end)] == end, "though the model would never write it"
    assert bool(result.reasoning) == bool(budget)
    assert result.text, "and goes on"
    endless = llm.generate(CHAT, max_new_tokens=40, logit_bias=bias)
    assert endless.text == "", "without a budget it thinks on"


def test_a_form_is_that_of_the_text_behind_the_reasoning(llm: LLM) -> None:
    for options in ({"json_schema": SCHEMA}, {"choices": ['{"a": "x"}']}):
        result = llm.generate(CHAT, reasoning_budget=5, max_new_tokens=400, **options)
        assert json.loads(result.text)["a"] in ("x", "y")
        assert result.reasoning or not opens_itself(llm)
        pieces = list(llm.stream(CHAT, reasoning_budget=5, max_new_tokens=400, **options))
        assert "".join(piece.text for piece in pieces) == result.text
        assert "".join(piece.reasoning for piece in pieces) == result.reasoning


def test_calls_or_a_form_and_calls_alone_where_they_are_required(llm: LLM) -> None:
    options = {"tools": TOOLS, "json_schema": SCHEMA, "reasoning_budget": 5, "max_new_tokens": 400}
    result = llm.generate(CHAT, **options)
    assert result.tool_calls or json.loads(result.text)["a"] in ("x", "y")
    result = llm.generate(CHAT, tool_choice="required", **options)
    assert result.tool_calls
    assert result.text == ""


def test_a_strict_tool_that_no_grammar_follows_is_refused(llm: LLM) -> None:
    schema = {"type": "object", "properties": {"a": {"not": {"const": 1}}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}]
    with pytest.raises(ConfigError, match="strict: f"):
        llm.generate(CHAT, tools=tools)


def test_effort_is_told_as_the_template_knows_it(llm: LLM) -> None:
    def prompted(**options: object) -> int:
        return llm.generate(CHAT, max_new_tokens=1, **options).usage.prompt_tokens

    if opens_itself(llm):
        assert prompted(reasoning_effort="none") == prompted()
        text = llm.generate(CHAT, max_new_tokens=20, reasoning_effort="none")
        assert text.reasoning == "", "what the template cannot switch off is ended at once"
        assert text.token_ids[: len(end_of(llm))] == end_of(llm)
    else:
        closed = prompted(template_options={"enable_thinking": False})
        assert prompted(reasoning_effort="none") == closed > prompted(reasoning_effort="high") == prompted()
        assert prompted(reasoning_effort="none", template_options={"enable_thinking": True}) == prompted()
