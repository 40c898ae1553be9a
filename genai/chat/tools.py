"""The tools that a model may call, as OpenAI's API describes them, checked where they come in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from genai.errors import ConfigError

TOOL_NAME = r"[a-zA-Z0-9_.:/-]{1,128}"
"""What tools may be called: between the names of a server and of its tools stand dots, colons and slashes."""
MAX_TOOLS = 512
"""Tools that a request may tell of."""

_NO_PARAMETERS: Mapping[str, object] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call.

    parameters: the JSON schema of its arguments, an object; is_strict: whether arguments must follow it to the letter.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, object]
    is_strict: bool = False

    def described(self) -> dict[str, object]:
        """The tool as chat templates want it."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSet:
    """The tools of one request.

    told: those that the model is told about; callable: those it may call; is_forced: whether it must call one;
    is_parallel: whether it may call several in one answer.
    """

    told: tuple[Tool, ...] = ()
    callable: tuple[Tool, ...] = ()
    is_forced: bool = False
    is_parallel: bool = True

    @classmethod
    def of(cls, tools: object = None, tool_choice: object = None, parallel_tool_calls: object = None) -> ToolSet:
        """Check OpenAI's `tools`, `tool_choice` and `parallel_tool_calls`; None is its default: none, "auto", True.

        With "none" the model is not told about the tools. A function that is chosen by name is called once. Of
        "allowed_tools" those that are not named are told about all the same, so that prompts begin alike.
        Raises: ConfigError naming the place that is wrong.
        """
        checked = _checked_tools(tools)
        is_parallel = True if parallel_tool_calls is None else parallel_tool_calls
        if not isinstance(is_parallel, bool):
            raise ConfigError(f"parallel_tool_calls={is_parallel!r}: must be true or false")
        choice = "auto" if tool_choice is None else tool_choice
        if isinstance(choice, str):
            if choice not in ("auto", "none", "required"):
                raise ConfigError(f"tool_choice={choice!r}: {_CHOICES}")
            if choice == "required" and not checked:
                raise ConfigError("tool_choice='required' needs tools; none are given")
            told = () if choice == "none" else checked
            return cls(told=told, callable=told, is_forced=choice == "required", is_parallel=is_parallel)
        if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
            allowed, is_forced = _allowed(choice, checked)
            return cls(told=checked, callable=allowed, is_forced=is_forced, is_parallel=is_parallel)
        chosen = _named(choice, checked, "tool_choice")
        return cls(told=checked, callable=(chosen,), is_forced=True, is_parallel=False)

    @property
    def binds(self) -> bool:
        """Whether the calls of an answer have to be of some kind."""
        has_strict = any(tool.is_strict for tool in self.callable)
        return self.is_forced or has_strict or not self.is_parallel or self.callable != self.told

    def loosened(self) -> ToolSet:
        """The same without what is no duty: schemas of tools that are not strict, should no grammar follow one."""
        loose = tuple(
            tool if tool.is_strict else replace(tool, parameters={"type": "object"}) for tool in self.callable
        )
        return replace(self, callable=loose)

    def described(self) -> list[dict[str, object]] | None:
        """The tools as chat templates want them; None if there are none."""
        return [tool.described() for tool in self.told] or None


_CHOICES = 'must be "auto", "none", "required", {"type": "function", "function": {"name": ...}} or "allowed_tools"'


def _checked_tools(tools: object) -> tuple[Tool, ...]:
    if tools is None:
        return ()
    if isinstance(tools, str | bytes) or not isinstance(tools, Sequence):
        raise ConfigError(f"tools is a list of functions, not {type(tools).__name__}")
    checked: dict[str, Tool] = {}
    for index, tool in enumerate(tools):
        one = _checked_tool(tool, f"tools[{index}]")
        if one.name in checked:
            raise ConfigError(f"tools[{index}].function.name={one.name!r}: another tool has this name")
        checked[one.name] = one
    return tuple(checked.values())


def _checked_tool(tool: object, place: str) -> Tool:
    fields = _fields(tool, place, {"type", "function"})
    if fields.get("type") != "function":
        raise ConfigError(f"{place}.type={fields.get('type')!r}: only 'function' tools can be called")
    place += ".function"
    function = _fields(fields.get("function"), place, {"name", "description", "parameters", "strict"})
    description, strict = function.get("description"), function.get("strict")
    if not isinstance(description, str | None):
        raise ConfigError(f"{place}.description={description!r}: must be a string")
    if not isinstance(strict, bool | None):
        raise ConfigError(f"{place}.strict={strict!r}: must be true or false")
    return Tool(
        name=_checked_name(function.get("name"), f"{place}.name"),
        description=description or "",
        parameters=_checked_schema(function.get("parameters"), f"{place}.parameters"),
        is_strict=bool(strict),
    )


def _checked_name(name: object, place: str) -> str:
    if not isinstance(name, str) or not re.fullmatch(TOOL_NAME, name):
        raise ConfigError(f"{place}={name!r}: must be 1 to 128 of the characters a-z, A-Z, 0-9, _ . : / and -")
    return name


def _checked_schema(schema: object, place: str) -> Mapping[str, object]:
    """A JSON schema for an object; without one, the function takes no arguments."""
    if schema is None:
        return _NO_PARAMETERS
    if not isinstance(schema, Mapping):
        raise ConfigError(f"{place} is a {type(schema).__name__}; it must be a JSON schema of type 'object'")
    if schema.get("type", "object") != "object":
        raise ConfigError(f"{place}.type={schema['type']!r}: arguments are always an 'object'")
    try:
        copy = json.loads(json.dumps({"type": "object", **schema}, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{place} is no JSON: {error}") from None
    assert isinstance(copy, dict)
    return copy


def _allowed(choice: Mapping[str, object], tools: Sequence[Tool]) -> tuple[tuple[Tool, ...], bool]:
    """The tools that "allowed_tools" names, in the order in which they were given, and whether one must be called."""
    place = "tool_choice.allowed_tools"
    fields = _fields(choice.get("allowed_tools"), place, {"mode", "tools"})
    mode, named = fields.get("mode"), fields.get("tools")
    if mode not in ("auto", "required"):
        raise ConfigError(f'{place}.mode={mode!r}: must be "auto" or "required"')
    if not isinstance(named, list | tuple) or not named:
        raise ConfigError(f'{place}.tools is a list of {{"type": "function", "function": {{"name": ...}}}}')
    names = {_named(one, tools, f"{place}.tools[{index}]").name for index, one in enumerate(named)}
    return tuple(tool for tool in tools if tool.name in names), mode == "required"


def _named(choice: object, tools: Sequence[Tool], place: str) -> Tool:
    """The tool that `tool_choice`, or a part of it, names."""
    fields = _fields(choice, place, {"type", "function"})
    if fields.get("type") != "function":
        raise ConfigError(f"{place}.type={fields.get('type')!r}: {_CHOICES}")
    name = _fields(fields.get("function"), f"{place}.function", {"name"}).get("name")
    chosen = next((tool for tool in tools if tool.name == name), None)
    if chosen is None:
        given = ", ".join(tool.name for tool in tools) or "none"
        raise ConfigError(f"{place}.function.name={name!r}: no such tool; given: {given}")
    return chosen


def _fields(value: object, place: str, allowed: set[str]) -> Mapping[str, object]:
    """An object whose keys are all allowed. Raises: ConfigError."""
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{place} is a {type(value).__name__}; it must be an object with {', '.join(sorted(allowed))}"
        )
    if unknown := [key for key in value if key not in allowed]:
        raise ConfigError(f"{place}.{unknown[0]} is unknown; allowed: {', '.join(sorted(allowed))}")
    return value
