"""From what a user gives to what the engine takes: prompts to tokens, strings in options to tokens, and a writer."""

from __future__ import annotations

import contextlib
from collections import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeAlias, TypeGuard, cast

import numpy as np

from genai.answer.answer import AnswerFormat
from genai.chat.formats import reasoning_begun
from genai.chat.reasoning import reasoning_variables
from genai.chat.shapes import ReasoningMarkers
from genai.chat.template import Message
from genai.chat.tools import ToolSet
from genai.decoding.constraint import Constraint
from genai.decoding.reasoning_budget import ReasoningBudget, ReasoningSpan
from genai.engine.request import Request
from genai.errors import ConfigError, PromptTooLongError, TokenizerError
from genai.grammar.grammar import Grammars
from genai.llm.writer import JobWriter, TextWriter
from genai.options.generation_config import ConstraintConfig, GenerationConfig
from genai.tokenizer.tokenizer import Tokenizer

Prompt: TypeAlias = str | abc.Sequence[int] | abc.Sequence[Message]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """What goes with chat messages.

    tools, tool_choice, parallel_tool_calls: as OpenAI writes them; template_options: variables for the chat template
    (`enable_thinking`); continue_final_message: the answer goes on where the last message, an assistant's, ends.
    """

    tools: abc.Sequence[Mapping[str, object]] | None = None
    tool_choice: object = None
    parallel_tool_calls: bool | None = None
    template_options: Mapping[str, object] | None = None
    continue_final_message: bool = False


_NO_CHAT = ChatOptions()
_LARGE_CHAT = 4_000_000
"""Characters above which a chat's length is looked at before its template is: one that runs bounded would break off."""
_NO_VARIABLES = frozenset({"messages", "tools", "add_generation_prompt", "continue_final_message"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request ready for an engine, and who is to follow it; a manual request is followed by nobody."""

    request: Request
    writer: JobWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """A request whose prompt is encoded. needs_compiling: its grammar is not known, and `finish` may take seconds."""

    needs_compiling: bool
    finish: Callable[[], Prepared]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Encoded:
    """A prompt's tokens; text: its text, where there was one; is_chat: it was made of messages; is_begun: so was the
    beginning of the answer; budget: how many tokens of reasoning there may be.
    """

    tokens: list[int]
    text: str | None
    is_chat: bool = False
    is_begun: bool = False
    budget: int | None = None


class Preparer:
    """Prepares requests for one model, whose sequences have at most `max_seq_len` tokens. Any thread may."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: tuple[int, ...], max_seq_len: int) -> None:
        self._tokenizer = tokenizer
        self._max_seq_len = max_seq_len
        self._eos_token_ids = eos_token_ids
        self._grammars = Grammars(tokenizer.backend, vocab_size, eos_token_ids)
        self._vocab_size = vocab_size
        self._breakers: dict[tuple[str, ...], frozenset[int]] = {}

    @cached_property
    def answer_format(self) -> AnswerFormat:
        """How the model writes tool calls and reasoning."""
        return AnswerFormat.of(self._tokenizer)

    def warm_up(self) -> None:
        """Do now what the first constraint would wait for; of no use for a tokenizer that cannot be constrained."""
        with contextlib.suppress(TokenizerError):  # raised again for who asks for a constraint
            self._grammars.warm_up()

    def prepare(self, prompt: Prompt, config: GenerationConfig, chat: ChatOptions = _NO_CHAT) -> Prepared:
        """A request for a prompt, to be run as any other. Raises: ConfigError, TokenizerError."""
        return self.begin(prompt, config, chat).finish()

    def begin(self, prompt: Prompt, config: GenerationConfig, chat: ChatOptions = _NO_CHAT) -> Preparation:
        """The same, but for a grammar that may have to be compiled yet. Raises: ConfigError, TokenizerError."""
        tools = ToolSet.of(chat.tools, chat.tool_choice, chat.parallel_tool_calls)
        encoded = self._encode(prompt, config, tools, chat)
        wanted = self._wanted(config, encoded, tools)
        return Preparation(
            needs_compiling=wanted is not None and not self._grammars.knows(wanted),
            finish=partial(self._finished, config, encoded, tools, wanted),
        )

    def _finished(
        self, config: GenerationConfig, encoded: _Encoded, tools: ToolSet, wanted: ConstraintConfig | None
    ) -> Prepared:
        compiled = None if wanted is None else self._compiled(wanted, config, encoded, tools)
        constraint = self._within_budget(encoded, compiled, has_calls=bool(tools.callable))
        if constraint is not None:
            constraint.mask()  # the first one takes longest: here nothing waits for it
        request = Request(
            prompt=encoded.tokens,
            config=config,
            bad_words=self._bad_words(config),
            dry_breakers=self._dry_breakers(config),
            newline_tokens=self._newline_tokens(config),
            constraint=constraint,
        )
        writer = JobWriter([self._writer(config, encoded, tools) for _ in range(config.num_choices)])
        return Prepared(request=request, writer=writer)

    def _encode(self, prompt: Prompt, config: GenerationConfig, tools: ToolSet, chat: ChatOptions) -> _Encoded:
        if _is_list(prompt) and len(prompt) and all(isinstance(item, Mapping) for item in prompt):
            messages = [item for item in prompt if isinstance(item, Mapping)]
            variables: dict[str, Any] = dict(chat.template_options or {})
            if reserved := variables.keys() & _NO_VARIABLES:
                raise ConfigError(f"template_options: {min(reserved)} is not an option of the template")
            self._check_length("".join(str(message.get("content") or "") for message in messages), _LARGE_CHAT)
            known = self._tokenizer.template_variables(has_tools=bool(tools.told))
            told: dict[str, Any] = reasoning_variables(known, config.reasoning_effort, config.reasoning_budget)
            text = self._tokenizer.render_chat(
                messages,
                tools=tools.described(),
                continue_final_message=chat.continue_final_message,
                **told | variables,
            )
            tokens = self._tokens(text, add_special_tokens=False)
            is_silenced = config.reasoning_effort == "none" and not told
            return _Encoded(
                tokens=tokens,
                text=text,
                is_chat=True,
                is_begun=chat.continue_final_message,
                budget=0 if is_silenced else config.reasoning_budget,
            )
        if chat != _NO_CHAT:
            message = "tools, tool_choice, template_options and continue_final_message go with chat messages"
            raise ConfigError(f"{message}; this prompt is no chat")
        if isinstance(prompt, str):
            return _Encoded(tokens=self._tokens(prompt, add_special_tokens=True), text=prompt)
        if _is_list(prompt) and all(map(is_token, prompt)):
            return _Encoded(tokens=[int(item) for item in prompt if is_token(item)], text=None)
        raise ConfigError(FORM)

    def _tokens(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """A prompt's tokens. Raises: PromptTooLongError, before all of it is encoded."""
        self._check_length(text)
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def _check_length(self, text: str, unless_above: int = 0) -> None:
        """Refuse a text that cannot fit, if it has more characters. Raises: PromptTooLongError."""
        most = self._max_seq_len - 1
        if len(text) > unless_above and (beyond := self._tokenizer.num_beyond(text, most)) is not None:
            raise PromptTooLongError(beyond, most, is_least=True)

    def _writer(self, config: GenerationConfig, encoded: _Encoded, tools: ToolSet) -> TextWriter:
        prefix = ""
        if config.echo:
            prefix = self._tokenizer.decode(encoded.tokens) if encoded.text is None else encoded.text
        form, has_form = self.answer_format, config.constraint is not None
        if not encoded.is_chat or (has_form and not (form.reasoning or tools.callable)):  # nothing but its own form
            return TextWriter(self._tokenizer.detokenizer(is_begun=encoded.is_begun), config, prefix=prefix)
        parser = form.parser(tools, encoded.text, has_form=has_form)
        detokenizer = self._tokenizer.detokenizer(visible_token_ids=form.visible_token_ids, is_begun=encoded.is_begun)
        return TextWriter(detokenizer, config, parser=parser, prefix=prefix)

    def _wanted(self, config: GenerationConfig, encoded: _Encoded, tools: ToolSet) -> ConstraintConfig | None:
        """What the text must match. Raises: ConfigError for a strict tool whose schema no grammar can follow."""
        if not encoded.is_chat:
            return config.constraint
        return self.answer_format.constraint(tools, encoded.text, config.constraint)

    def _compiled(
        self, wanted: ConstraintConfig, config: GenerationConfig, encoded: _Encoded, tools: ToolSet
    ) -> Constraint:
        """What the text must match, compiled; where that fails for schemas of tools, they bind only strict ones."""
        ends = config.ends(self._eos_token_ids)
        try:
            return self._grammars.constraint(wanted, ends)
        except ConfigError as error:
            if config.constraint is not None:
                self._grammars.constraint(config.constraint, ends)  # its own fault is told in its own words
            loose = tools.loosened()
            if loose == tools:
                raise (_at_fault(tools, error) if tools.callable else error) from None
        looser = self._wanted(config, encoded, loose)
        assert looser is not None, "it constrains as much"
        try:
            return self._grammars.constraint(looser, ends)
        except ConfigError as error:
            raise _at_fault(tools, error) from None

    def _within_budget(self, encoded: _Encoded, constraint: Constraint | None, *, has_calls: bool) -> Constraint | None:
        """A constraint that ends the reasoning when its budget is spent, if there is one, and the model reasons."""
        markers = self.answer_format.reasoning
        if encoded.budget is None or not markers:
            return constraint
        begun = reasoning_begun(encoded.text, markers)
        return ReasoningBudget(
            encoded.budget,
            [self._span(known, has_calls=has_calls) for known in markers],
            begun=None if begun is None else self._span(begun, has_calls=has_calls),
            piece=self._tokenizer.shown_bytes,
            vocab_size=self._vocab_size,
            inner=constraint,
        )

    def _span(self, markers: ReasoningMarkers, *, has_calls: bool) -> ReasoningSpan:
        """Reasoning as tokens; has_calls: content need not follow it."""
        end = markers.close if has_calls else markers.close + markers.answer
        token = self._tokenizer.token_to_id(end)
        tokens = self._tokenizer.encode(end, add_special_tokens=False) if token is None else [token]
        return ReasoningSpan(open=markers.opening.encode(), close=markers.close.encode(), end=tuple(tokens))

    def _bad_words(self, config: GenerationConfig) -> list[list[int]]:
        """Bad words as tokens; a string as it is spelled at the beginning of a text, and after a space."""
        words: list[list[int]] = []
        for word in config.sampling_config.bad_words:
            if isinstance(word, str):
                for spelled in (word, " " + word):
                    tokens = self._tokenizer.encode(spelled, add_special_tokens=False)
                    if tokens and tokens not in words:
                        words.append(tokens)
            else:
                words.append(list(word))
        return words

    def _newline_tokens(self, config: GenerationConfig) -> frozenset[int]:
        """What XTC must leave for paragraphs to end, as in its original."""
        if not config.sampling_config.xtc.probability:
            return frozenset()
        return frozenset(self._tokenizer.encode("\n", add_special_tokens=False)[-1:])

    def _dry_breakers(self, config: GenerationConfig) -> frozenset[int]:
        """The tokens with a sequence breaker in them."""
        dry = config.sampling_config.dry
        if not dry.multiplier:
            return frozenset()
        known = self._breakers.get(dry.sequence_breakers)
        if known is None:
            breakers = [text.encode() for text in dry.sequence_breakers]
            pieces = ((token, self._tokenizer.token_bytes(token)) for token in range(self._tokenizer.vocab_size))
            known = frozenset(token for token, piece in pieces if any(breaker in piece for breaker in breakers))
            self._breakers[dry.sequence_breakers] = known
        return known


def _at_fault(tools: ToolSet, error: ConfigError) -> ConfigError:
    """An error that says which functions' schemas are binding."""
    strict = ", ".join(tool.name for tool in tools.callable if tool.is_strict)
    return ConfigError(f"tools: no grammar can follow them{strict and f' (strict: {strict})'}: {error}")


FORM = "a prompt is a string, a list of token ids, or a list of messages with 'role' and 'content'"


def as_list(prompt: Prompt | abc.Sequence[Prompt]) -> tuple[abc.Sequence[Prompt], bool]:
    """(prompts, whether they were several). Raises: ConfigError for an empty list, and for what is no list."""
    if isinstance(prompt, str):
        return [prompt], False
    if not _is_list(prompt):
        raise ConfigError(FORM)
    if not len(prompt):
        raise ConfigError("the prompt is empty; give a string, token ids, messages, or a list of those")
    if isinstance(prompt[0], Mapping) or is_token(prompt[0]):
        return [cast(Prompt, prompt)], False
    return cast(abc.Sequence[Prompt], prompt), True


def are_tokens(value: object) -> TypeGuard[abc.Sequence[int]]:
    """Whether a value is a list of token ids."""
    return _is_list(value) and all(map(is_token, value))


def is_token(value: object) -> TypeGuard[int]:
    """Whether a value can be a token id."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_list(value: object) -> TypeGuard[abc.Sequence[object]]:
    """Whether a value has items in order; bytes are a mistake, and not a list of ids."""
    return isinstance(value, abc.Sequence | np.ndarray) and not isinstance(value, bytes | bytearray | memoryview)
