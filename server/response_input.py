"""What `POST /v1/responses` is given, as chat templates and tool calls know it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from genai.errors import ConfigError, RequestError
from genai.requests.base import JsonObject
from genai.requests.content import check_media, text_of
from genai.requests.messages import CalledFunction, past_call
from server.schemas.response_items import (
    AllowedTools,
    ChosenTool,
    CustomTool,
    FunctionTool,
    GrammarInput,
    HostedTool,
    InputCall,
    InputCallOutput,
    InputCustomCall,
    InputItem,
    InputMcpCall,
    InputMessage,
    InputReasoning,
    NamespaceTool,
)
from server.schemas.responses import ResponsesRequest

MAX_GRAMMARS = 16
"""Tools of one request whose text may have to follow a grammar: each costs a moment before anything is answered."""
INPUT = "input"
"""The one argument by which models are told of tools that take text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalledTool:
    """Which tool a call is of. namespace: its first name, if there is one; is_custom: it takes text."""

    name: str
    namespace: str | None = None
    is_custom: bool = False

    @property
    def function(self) -> str:
        """The one name by which models know it."""
        return self.name if self.namespace is None else f"{self.namespace}__{self.name}"


def called_tools(body: ResponsesRequest) -> dict[str, CalledTool]:
    """The tools that may be called, by the names by which models know them."""
    return {called.function: called for called, _, _ in _callable(body)}


def told_tools(body: ResponsesRequest) -> list[JsonObject]:
    """The tools as they were given, without those that are left out."""
    told = [tool.model_dump() for tool in body.tools or () if not isinstance(tool, HostedTool)]
    for tool in told:
        if "tools" in tool:
            tool["tools"] = [each for each in tool["tools"] if each["type"] in ("function", "custom")]
    return told


def functions(body: ResponsesRequest) -> list[dict[str, object]] | None:
    """The tools as chat completions write them. Raises: RequestError for a grammar that cannot be followed."""
    num_grammars = sum(isinstance(tool, CustomTool) and tool.format is not None for _, tool, _ in _callable(body))
    if num_grammars > MAX_GRAMMARS:
        message = f"tools: {num_grammars} of them have a format; at most {MAX_GRAMMARS} may"
        raise RequestError(message, code="invalid_value", param="tools")
    told = [_function(called, tool, place) for called, tool, place in _callable(body)]
    return [{"type": "function", "function": function} for function in told] or None


def choice(body: ResponsesRequest) -> object:
    """Which of them to call, as chat completions write it."""
    if isinstance(body.tool_choice, ChosenTool):
        return _chosen(body.tool_choice)
    if isinstance(body.tool_choice, AllowedTools):
        named = [_chosen(each) for each in body.tool_choice.tools if isinstance(each, ChosenTool)]
        return {"type": "allowed_tools", "allowed_tools": {"mode": body.tool_choice.mode, "tools": named}}
    return body.tool_choice


def conversation(
    instructions: str | None, items: Sequence[InputItem], *, refuses_media: bool
) -> list[Mapping[str, object]]:
    """Items as chat templates know them.

    Raises: RequestError for a past call whose arguments are no object, for media, and if there is nothing to answer.
    """
    said: list[dict[str, object]] = []
    if instructions is not None:
        said.append({"role": "system", "content": instructions})
    turn = _AssistantTurn()
    for number, item in enumerate(items):
        match item:
            case InputReasoning():
                if turn.content or turn.calls:
                    said += turn.ended()
                turn.reasoning.append(_thought(item))
            case InputCall() | InputCustomCall() | InputMcpCall():
                turn.calls.append(_past_call(item, f"input[{number}].arguments"))
                if isinstance(item, InputMcpCall):
                    said += [*turn.ended(), _result(item.id, item.output or json.dumps(item.error))]
            case InputMessage(role="assistant"):
                if turn.content and not turn.calls:
                    said += turn.ended()
                turn.content.append(text_of(item.content, is_answer=True))
            case InputMessage():
                role = "system" if item.role == "developer" else item.role
                said += [*turn.ended(), {"role": role, "content": text_of(item.content)}]
            case InputCallOutput():
                said += [*turn.ended(), _result(item.call_id, text_of(item.output))]
    said += turn.ended()
    if not said:
        raise RequestError("input has nothing that can be answered", code="invalid_value", param="input")
    check_media(list(items), said, "input", is_refused=refuses_media)
    return [*said]


@dataclass(slots=True, kw_only=True)
class _AssistantTurn:
    """What the assistant thought, said and called, piece by piece, which is one message to templates."""

    reasoning: list[str] = field(default_factory=list)
    content: list[str] = field(default_factory=list)
    calls: list[dict[str, object]] = field(default_factory=list)

    def ended(self) -> list[dict[str, object]]:
        """The message, if there is one; another turn begins."""
        message: dict[str, object] = {"role": "assistant", "content": "".join(self.content)}
        if thought := "".join(self.reasoning):
            message["reasoning_content"] = thought
        if self.calls:
            message["tool_calls"] = self.calls
        is_empty = not self.content and not thought and not self.calls
        self.reasoning, self.content, self.calls = [], [], []
        return [] if is_empty else [message]


def _result(call_id: str, text: str) -> dict[str, object]:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


def _thought(item: InputReasoning) -> str:
    return "".join(piece.text for piece in item.content or item.summary or ())


def _past_call(item: InputCall | InputCustomCall | InputMcpCall, place: str) -> dict[str, object]:
    if isinstance(item, InputMcpCall):
        return past_call(item.id, item, place)
    called = CalledTool(name=item.name, namespace=item.namespace).function
    given: str | JsonObject = {INPUT: item.input} if isinstance(item, InputCustomCall) else item.arguments
    return past_call(item.call_id, CalledFunction(name=called, arguments=given), place)


def _callable(body: ResponsesRequest) -> Iterator[tuple[CalledTool, FunctionTool | CustomTool, str]]:
    """The tools that may be called, with their places."""
    for number, tool in enumerate(body.tools or ()):
        inner = tool.tools if isinstance(tool, NamespaceTool) else [tool]
        namespace = tool.name if isinstance(tool, NamespaceTool) else None
        for index, each in enumerate(inner):
            if isinstance(each, FunctionTool | CustomTool):
                is_custom = isinstance(each, CustomTool)
                called = CalledTool(name=each.name, namespace=namespace, is_custom=is_custom)
                yield called, each, f"tools[{number}]" + (f".tools[{index}]" if namespace is not None else "")


def _function(called: CalledTool, tool: FunctionTool | CustomTool, place: str) -> dict[str, object]:
    if isinstance(tool, FunctionTool):
        return {**tool.model_dump(exclude={"type"}, exclude_none=True), "name": called.function}
    text: dict[str, object] = {"type": "string", "description": "The whole input, as it is."}
    if isinstance(tool.format, GrammarInput):
        text["description"] = (
            f"The whole input, as it is. It follows this ({tool.format.syntax}):\n{tool.format.definition}"
        )
        text["pattern"] = _pattern(tool.format, f"{place}.format.definition")
    parameters = {"type": "object", "properties": {INPUT: text}, "required": [INPUT], "additionalProperties": False}
    described = {} if tool.description is None else {"description": tool.description}
    return {"name": called.function, **described, "parameters": parameters, "strict": True}


def _pattern(wanted: GrammarInput, place: str) -> str:
    """What a custom tool's text matches. Raises: RequestError."""
    from genai.grammar.lark_regex import lark_regex

    if wanted.syntax == "regex":
        return f"^(?:{wanted.definition})$"
    try:
        return lark_regex(wanted.definition)
    except ConfigError as error:
        raise RequestError(f"{place}: {error}", code="invalid_value", param=place) from None


def _chosen(named: ChosenTool) -> dict[str, object]:
    called = CalledTool(name=named.name, namespace=named.namespace)
    return {"type": "function", "function": {"name": called.function}}
