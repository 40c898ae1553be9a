"""Chat templates: messages to the text a model was trained on, as transformers renders them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import jinja2.meta

from genai.chat.content import ContentForms, PlainMessage
from genai.chat.formats import tool_format_of
from genai.chat.sandbox import compile_template, render_template
from genai.chat.tool_messages import (
    call_forms,
    describe_tools,
    normal_calls,
    number_calls,
    spell_calls,
    spell_results,
    with_one_call_a_turn,
)
from genai.chat.turns import Turns, joined
from genai.errors import TokenizerError

Message = Mapping[str, object]
"""One turn: `{"role": "user", "content": "Hi"}`; content may be a list of parts; further keys are passed on."""

_TOOL_VARIABLES = frozenset({"tools", "xml_tools"})  # the second is SmolLM3's
_RESULT_ROLE = re.compile(r"""["'](?:tool|ipython)["']""")
_CALLS_FIELD = re.compile(r"""\.tool_calls\b|["']tool_calls["']""")
_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
_NO_SPECIAL_TOKENS = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "")
_HERE = "\ue000\ue001\ue002"
"""Characters that no text has: where a message that is to be continued ends."""


class ChatTemplate:
    """A jinja2 chat template, compiled once and rendered in a sandbox with bounded effort.

    Templates see what transformers gives them: `messages`, `tools`, `documents`, `add_generation_prompt`, special
    tokens, any further variables, and the functions `raise_exception` and `strftime_now`. tool_format: how the model
    that a template is for writes calls; variables: the names that it reads.
    """

    def __init__(self, source: str) -> None:
        """Raises: TokenizerError if the template has a syntax error."""
        self.source = source
        try:
            self._template = compile_template(source)
            names = jinja2.meta.find_undeclared_variables(self._template.environment.parse(source))
        except Exception as error:  # compiling folds constants, which runs the template's own expressions
            raise TokenizerError(f"the chat template cannot be compiled: {_one_line(error)}") from None
        self.variables = frozenset(names)
        self._tool_variables = names & _TOOL_VARIABLES
        self.tool_format = tool_format_of(source)
        self._contents = ContentForms(lambda messages: self._rendered_as_they_are(messages, _NO_SPECIAL_TOKENS))
        self._turns = Turns(lambda messages: self._rendered(messages, _NO_SPECIAL_TOKENS))

    @property
    def takes_tools(self) -> bool:
        """Whether the template tells the model about tools; for others, `render` adds a system text that does."""
        return bool(self._tool_variables)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, object]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """The text of the conversation.

        Calls in messages are those of OpenAI's API, their arguments as text or as objects; they, and their results,
        are given to the template in the form that it takes, or as part of the text if it takes none. So are content (a
        text, or a list of parts: `genai.chat.content`), and system texts and turns in an order that it does not take
        (`genai.chat.turns`).
        continue_final_message: the text ends where the last message, an assistant's, does, so that it goes on.
        Raises: TokenizerError if the messages have the wrong form, or if the template refuses or fails.
        """
        values = _plain(variables or {}, "chat template variables")
        assert isinstance(values, dict)
        if tools:
            values |= dict.fromkeys(self._tool_variables, _plain(tools, "tools"))
        plain = [_with_reasoning(message) for message in normal_calls(self._contents.joined(_checked(messages)))]
        if self.tool_format.channels is not None:
            plain = with_one_call_a_turn(plain)  # its template shows the first call and leaves out the rest
        if self.tool_format.history_id:
            plain = number_calls(plain, self.tool_format.history_id)
        if tools and not self.takes_tools:
            plain = describe_tools(plain, tools, self.tool_format)
        if continue_final_message:
            plain = [*plain[:-1], _marked(plain[-1])]
        values["add_generation_prompt"] = add_generation_prompt and not continue_final_message
        fitted = self._turns.fitted(self._with_spelled_calls(plain))
        try:
            text = self._rendered(fitted, values)
        except Exception as error:
            raise TokenizerError(f"the chat template failed: {_one_line(error)}") from None
        return _until_mark(text) if continue_final_message else text

    def _rendered(self, messages: Sequence[PlainMessage], values: Mapping[str, object]) -> str:
        """Render the first form of the calls that the template takes. Raises: what it raised for the first form."""
        failures: list[Exception] = []
        for form in call_forms(self._contents.typed(messages)):
            try:
                return self._rendered_as_they_are(form, values)
            except Exception as error:  # the template is a stranger's program: it can raise anything
                failures.append(error)
        raise failures[0]

    def _rendered_as_they_are(self, messages: Sequence[PlainMessage], values: Mapping[str, object]) -> str:
        values = {"documents": None, "tools": None, "add_generation_prompt": False, **values}
        return render_template(self._template, {**values, "messages": messages})

    def _with_spelled_calls(self, messages: Sequence[PlainMessage]) -> list[PlainMessage]:
        """The messages with calls and results as text, where the template knows neither them nor tools."""
        if not _CALLS_FIELD.search(self.source):
            messages = spell_calls(messages, self.tool_format)
        if not _RESULT_ROLE.search(self.source):
            messages = spell_results(messages, self.tool_format)
        return list(messages)


def _checked(messages: Sequence[Message]) -> list[dict[str, object]]:
    """Plain copies of the messages, after a look at their form."""
    form = 'chat messages are a list of {"role": ..., "content": ...}'
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise TokenizerError(f"{form}, not {type(messages).__name__}; a prompt that is a string needs no chat template")
    if not messages:
        raise TokenizerError(f"{form}: the list is empty")
    checked = []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise TokenizerError(f"{form}: message {index} is a {type(message).__name__}")
        if not isinstance(message.get("role"), str):
            raise TokenizerError(f"{form}: message {index} has no role that is a string")
        content = message.get("content")
        if content is None and not (message.get("tool_calls") or _reasoning(message)):
            raise TokenizerError(f"{form}: message {index} has no content")
        if not isinstance(content, str | Sequence | None):
            raise TokenizerError(f"{form}: the content of message {index} is a {type(content).__name__}")
        plain = _plain(message, f"message {index}")
        assert isinstance(plain, dict)
        checked.append(plain)
    return checked


def _reasoning(message: Message) -> object:
    return next((message[name] for name in _REASONING_FIELDS if message.get(name) is not None), None)


def _with_reasoning(message: dict[str, object]) -> dict[str, object]:
    """Give a message's reasoning under each name that templates read it by, as transformers does."""
    reasoning = _reasoning(message)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _marked(message: PlainMessage) -> PlainMessage:
    """A message that shows where it ends. Raises: TokenizerError if it cannot be continued."""
    if message["role"] != "assistant" or message.get("tool_calls"):
        raise TokenizerError(
            "only an assistant's message without tool calls can be continued, and the last one is none"
        )
    content = message.get("content")
    return {**message, "content": joined([content, _HERE]) if isinstance(content, list) else f"{content or ''}{_HERE}"}


def _until_mark(text: str) -> str:
    before, mark, _ = text.rpartition(_HERE)
    if not mark:
        raise TokenizerError("the chat template does not show the last message as it is, so it cannot be continued")
    return before


def _plain(value: object, place: str, depth: int = 0) -> object:
    """A copy made of plain JSON types only, so that the template meets no object with methods of its own."""
    if depth > 100:
        raise TokenizerError(f"{place}: values are nested more than 100 deep")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Mapping):
        return {_plain(key, place, depth + 1): _plain(item, place, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_plain(item, place, depth + 1) for item in value]
        return items if isinstance(value, list) else tuple(items)
    raise TokenizerError(f"{place}: only JSON values can be given to a chat template, not {type(value).__name__}")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no reason given"
    line = getattr(error, "lineno", None)
    where = f" (line {line})" if isinstance(line, int) else ""
    return f"{type(error).__name__}: {text[:500]}{where}"
