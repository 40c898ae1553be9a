"""A further format is one entry: it is found in templates, spelled, forced and read by that alone."""

from __future__ import annotations

import json
import random

import llguidance
import llguidance.numpy
import numpy as np
import pytest

from genai.answer.answer import AnswerFormat, AnswerParser
from genai.chat import formats
from genai.chat.shapes import NamedCall, Opener, ToolFormat
from genai.chat.template import ChatTemplate
from genai.chat.tools import ToolSet
from genai.tokenizer.tokenizer import Tokenizer
from tests.chat.tool_models import SPECIAL, tokenizer_with

FENCED = ToolFormat(
    name="fenced",
    signs=("<fenced>",),
    openers=(Opener(text="<fenced>", close="</fenced>"),),
    named=NamedCall(before_arguments="\n```json\n", after_arguments="\n```"),
    is_named=True,
    before="<fenced>",
    between="</fenced>\n<fenced>",
    after="</fenced>",
    is_parallel=False,
)
"""Like none of the table."""
WRITTEN = {
    "fenced": '<fenced>get\n```json\n{"n": 1}\n```</fenced>\n<fenced>put\n```json\n{}\n```</fenced>',
}
CALLS = [("get", '{"n": 1}'), ("put", "{}")]
NUMBER = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["n"]}
TOOLS = [
    {"type": "function", "function": {"name": "get", "parameters": NUMBER}},
    {"type": "function", "function": {"name": "put"}},
]


@pytest.fixture(params=[FENCED], ids=lambda entry: entry.name)
def entry(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ToolFormat:
    """An entry that has joined the table."""
    added: ToolFormat = request.param
    monkeypatch.setattr(formats, "TOOL_FORMATS", (added, *formats.TOOL_FORMATS))
    return added


def template_of(entry: ToolFormat) -> str:
    """Knows tools and the role of their results, and leaves calls to us."""
    return (
        f"{{{{ tools | length }}}} in {' '.join(entry.signs)}; also in <tool_call></tool_call>"
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{{ 'tool' if no }}"
    )


def tokenizer_of(entry: ToolFormat, has_markers: bool) -> Tokenizer:
    special = (*SPECIAL, *entry.markers) if has_markers else SPECIAL
    return tokenizer_with(template_of(entry), special=special)


def heard(parser: AnswerParser, pieces: list[str]) -> tuple[str, list[tuple[str, str]], list[str]]:
    """The content, the calls, and the arguments as they were streamed."""
    deltas = [*map(parser.push, pieces), parser.finish()]
    streamed: dict[int, str] = {}
    for call in (call for delta in deltas for call in delta.tool_calls):
        streamed[call.index] = streamed.get(call.index, "") + call.arguments
    calls = [(call.name, call.arguments) for call in parser.tool_calls]
    return "".join(delta.content for delta in deltas), calls, list(streamed.values())


def test_it_is_found_and_its_calls_are_spelled(entry: ToolFormat) -> None:
    template = ChatTemplate(template_of(entry))
    assert template.tool_format is entry
    assert entry.spelled(CALLS) == WRITTEN[entry.name]
    said = [{"function": {"name": name, "arguments": arguments}} for name, arguments in CALLS]
    chat = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": said}]
    assert template.render(chat, tools=TOOLS).endswith(f"[assistant]{WRITTEN[entry.name]}")


@pytest.mark.parametrize("has_markers", [True, False])
def test_its_calls_are_read_whole_and_at_every_cut(entry: ToolFormat, has_markers: bool) -> None:
    form = AnswerFormat.of(tokenizer_of(entry, has_markers))
    assert form.tool_format is entry
    assert (set(entry.markers) <= form.token_ids.keys()) == has_markers
    text = f"So:\n{WRITTEN[entry.name]}"
    tools = ToolSet.of(TOOLS)
    whole = heard(form.parser(tools), [text])
    assert whole == ("So:\n", CALLS, [arguments for _, arguments in CALLS])
    for place in range(len(text)):
        assert heard(form.parser(tools), [text[:place], text[place:]]) == whole
        assert heard(form.parser(tools), [*text[:place]])[1] in (CALLS, CALLS[:1], []), "those that are complete"


def test_what_is_no_call_is_content(entry: ToolFormat) -> None:
    form = AnswerFormat.of(tokenizer_of(entry, has_markers=True))
    call = entry.spelled(CALLS[:1])
    for text in (call.replace("get", "set"), call.replace("{", "("), entry.before + "get", entry.before + entry.after):
        assert heard(form.parser(ToolSet.of(TOOLS)), [text])[:2] == (text, [])


@pytest.mark.parametrize("has_markers", [True, False])
def test_forced_calls_are_read(entry: ToolFormat, has_markers: bool) -> None:
    tokenizer, tools = tokenizer_of(entry, has_markers), ToolSet.of(TOOLS, "required")
    form = AnswerFormat(tool_format=entry, token_ids=AnswerFormat.of(tokenizer).token_ids)
    constraint = form.constraint(tools)
    assert constraint is not None
    judge = llguidance.LLTokenizer(tokenizer.backend.to_str(), eos_token=tokenizer.eos_token_ids[0])
    grammar = llguidance.LLMatcher.grammar_from_lark(str(constraint.grammar))
    matcher = llguidance.LLMatcher(judge, grammar)
    tokens = tokenizer.encode(entry.spelled(CALLS if entry.is_parallel else CALLS[:1]))
    assert matcher.try_consume_tokens(tokens) == len(tokens)
    assert matcher.is_accepting(), "what the model learnt can be written"
    named = set()
    for seed in range(8):
        text = written_at_random(llguidance.LLMatcher(judge, grammar), judge, tokenizer, seed)
        content, calls, _ = heard(form.parser(tools), [text])
        assert content == ""
        assert calls
        assert len(calls) == 1 or entry.is_parallel
        for name, arguments in calls:
            assert set(json.loads(arguments)) == ({"n"} if name == "get" else set())
            named.add(name)
    assert named == {"get", "put"}


def written_at_random(
    matcher: llguidance.LLMatcher, judge: llguidance.LLTokenizer, tokenizer: Tokenizer, seed: int
) -> str:
    chance, tokens = random.Random(seed), list[int]()
    mask = llguidance.numpy.allocate_token_bitmask(1, judge.vocab_size)
    while not matcher.is_stopped():
        llguidance.numpy.fill_next_token_bitmask(matcher, mask, 0)
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[: judge.vocab_size]
        allowed = [int(token) for token in np.flatnonzero(bits) if token not in tokenizer.eos_token_ids]
        if not allowed or (matcher.is_accepting() and chance.random() < 0.5):
            break
        tokens.append(chance.choice(allowed))
        assert matcher.consume_token(tokens[-1])
    return tokenizer.decode(tokens, skip_special_tokens=False)
