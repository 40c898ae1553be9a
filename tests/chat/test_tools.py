"""What is no list of functions is refused, with the place that is wrong."""

from __future__ import annotations

import pytest

from genai.chat.tools import ToolSet
from genai.errors import ConfigError


def tool(name: object = "get_weather", **function: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": name, **function}}


def test_tools_are_described_in_full() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = ToolSet.of([tool(description="The weather", parameters=schema, strict=True), tool("now")])
    assert tools.described() == [
        tool(description="The weather", parameters=schema),
        tool("now", description="", parameters={"type": "object", "properties": {}, "additionalProperties": False}),
    ]
    assert [(one.name, one.is_strict) for one in tools.callable] == [("get_weather", True), ("now", False)]
    assert tools.is_parallel
    assert not tools.is_forced


def test_a_schema_without_a_type_is_an_objects() -> None:
    (one,) = ToolSet.of([tool(parameters={"properties": {}})]).told
    assert one.parameters == {"type": "object", "properties": {}}


def allowed(mode: str, *names: str) -> dict[str, object]:
    """OpenAI's choice of some of the tools."""
    named = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": named}}


@pytest.mark.parametrize(
    ("choice", "told", "callable_", "is_forced", "is_parallel"),
    [
        (None, "ab", "ab", False, True),
        ("auto", "ab", "ab", False, True),
        ("none", "", "", False, True),
        ("required", "ab", "ab", True, True),
        ({"type": "function", "function": {"name": "b"}}, "ab", "b", True, False),
        (allowed("auto", "b"), "ab", "b", False, True),
        (allowed("required", "b", "a"), "ab", "ab", True, True),
    ],
)
def test_choices(choice: object, told: str, callable_: str, is_forced: bool, is_parallel: bool) -> None:
    tools = ToolSet.of([tool("a"), tool("b")], choice)
    assert "".join(one.name for one in tools.told) == told
    assert "".join(one.name for one in tools.callable) == callable_
    assert (tools.is_forced, tools.is_parallel) == (is_forced, is_parallel)


def test_no_tools() -> None:
    for tools in (ToolSet.of(), ToolSet.of([], "none"), ToolSet.of(None, "auto", True)):
        assert tools.described() is None
        assert not tools.callable
    assert not ToolSet.of([tool()], "auto", False).is_parallel


def endless() -> dict[str, object]:
    schema: dict[str, object] = {"type": "object"}
    schema["properties"] = schema
    return schema


@pytest.mark.parametrize(
    ("tools", "choice", "part"),
    [
        ("get_weather", None, "tools is a list of functions, not str"),
        ({"type": "function"}, None, "tools is a list of functions, not dict"),
        ([tool(), "x"], None, r"tools\[1\] is a str"),
        ([{"type": "function"}], None, r"tools\[0\].function is a NoneType"),
        ([{"type": "web_search"}], None, r"tools\[0\].type='web_search': only 'function'"),
        ([{"function": {"name": "x"}}], None, r"tools\[0\].type=None"),
        ([tool() | {"extra": 1}], None, r"tools\[0\].extra is unknown; allowed: function, type"),
        ([tool(extra=1)], None, r"tools\[0\].function.extra is unknown"),
        ([tool("get weather")], None, r"tools\[0\].function.name='get weather': must be 1 to 128"),
        ([tool("x" * 129)], None, r"tools\[0\].function.name='x{129}'"),
        ([tool("")], None, r"tools\[0\].function.name=''"),
        ([tool("name\n")], None, r"tools\[0\].function.name="),
        ([tool(3)], None, r"tools\[0\].function.name=3"),
        ([tool("a"), tool("b"), tool("a")], None, r"tools\[2\].function.name='a': another tool"),
        ([tool(description=3)], None, r"tools\[0\].function.description=3"),
        ([tool(strict="yes")], None, r"tools\[0\].function.strict='yes'"),
        ([tool(parameters=[])], None, r"tools\[0\].function.parameters is a list"),
        ([tool(parameters={"type": "string"})], None, r"tools\[0\].function.parameters.type='string'"),
        ([tool(parameters={"default": {1, 2}})], None, r"tools\[0\].function.parameters is no JSON"),
        ([tool(parameters={"default": float("nan")})], None, r"tools\[0\].function.parameters is no JSON"),
        ([tool(parameters=endless())], None, r"tools\[0\].function.parameters is no JSON"),
        ([tool()], "any", "tool_choice='any': must be"),
        ([tool()], 3, "tool_choice is a int"),
        ([], "required", "tool_choice='required' needs tools"),
        ([tool()], {"type": "allowed_tools"}, "tool_choice.allowed_tools is a NoneType"),
        ([tool()], allowed("auto"), "tool_choice.allowed_tools.tools is a list of"),
        ([tool()], allowed("any", "get_weather"), "tool_choice.allowed_tools.mode='any': must be"),
        ([tool()], allowed("auto", "x"), r"tool_choice.allowed_tools.tools\[0\].function.name='x': no such tool"),
        ([tool()], {"type": "function", "allowed_tools": {}}, "tool_choice.allowed_tools is unknown"),
        ([tool()], {"type": "function", "name": "x"}, "tool_choice.name is unknown"),
        ([tool()], {"type": "function", "function": {"name": "x"}}, "no such tool; given: get_weather"),
        (None, {"type": "function", "function": {"name": "x"}}, "no such tool; given: none"),
    ],
)
def test_refusals(tools: object, choice: object, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        ToolSet.of(tools, choice)


def test_parallel_tool_calls_is_a_boolean() -> None:
    with pytest.raises(ConfigError, match="parallel_tool_calls='no': must be true or false"):
        ToolSet.of([tool()], "auto", "no")
