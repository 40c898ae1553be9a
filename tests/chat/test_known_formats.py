"""Every entry of the table of formats: recognised by what real templates say, and read, streamed, forced and spelled.

The texts are those that the templates of these models write, or that parsers for them read.
"""

from __future__ import annotations

import json
from functools import cache
from typing import NamedTuple

import jsonschema
import llguidance
import pytest

from genai.answer.answer import AnswerFormat
from genai.chat import formats
from genai.chat.formats import TOOL_FORMATS, tool_format_of
from genai.chat.shapes import ToolFormat
from genai.chat.template import ChatTemplate
from genai.chat.tools import ToolSet
from genai.errors import ConfigError
from genai.grammar.grammar import Grammars
from genai.grammar.lark_regex import lark_regex
from genai.options.decoding_config import ConstraintConfig
from genai.tokenizer.tokenizer import Tokenizer
from tests.chat.test_formats import heard, template_of, written_at_random
from tests.chat.tool_models import SPECIAL, tokenizer_with

ARGUMENTS = {"city": 'Zürich <b>, "x"', "days": 3, "fine": True, "of": [1, {"a": "b"}], "to": None}
PROPERTIES: dict[str, object] = {
    "city": {"type": "string"},
    "days": {"type": "integer", "minimum": 1, "maximum": 9},
    "fine": {"type": "boolean"},
    "of": {"type": "array"},
    "to": {"type": ["null", "boolean"]},
}
SCHEMA = {"type": "object", "properties": PROPERTIES, "required": ["city"]}
TOOLS = [
    {"type": "function", "function": {"name": "get", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "get_all"}},
]
CHOSEN = {
    **SCHEMA,
    "properties": {**PROPERTIES, "city": {"enum": ["here", 'Zürich <b>, "x"']}, "of": {"type": "null"}},
}
CHOSEN_TOOLS = [{"type": "function", "function": {"name": "get", "parameters": CHOSEN}}, TOOLS[1]]
"""Without strings of any length: what is written at random would hardly end them."""
JSON = json.dumps(ARGUMENTS, ensure_ascii=False)
CALLS = [("get", JSON), ("get_all", "{}")]


class Known(NamedTuple):
    """signs: from the source of a template; text: what the model writes for CALLS."""

    models: str
    signs: str
    text: str


KNOWN = [
    Known(
        "Qwen3-Coder",
        "{{- '\\n<tool_call>\\n<function=' + tool_call.name + '>\\n' }}{{- '<parameter=' + args_name + '>\\n' }}",
        '<tool_call>\n<function=get>\n<parameter=city>\nZürich <b>, "x"\n</parameter>\n<parameter=days>\n3\n'
        '</parameter>\n<parameter=fine>\ntrue\n</parameter>\n<parameter=of>\n[1, {"a": "b"}]\n</parameter>\n'
        "<parameter=to>\nnull\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=get_all>\n</function>\n</tool_call>",
    ),
    Known(
        "Seed-OSS",
        "'<seed:tool_call>' <function=example_function_name>\\n<parameter=example_parameter_1>value_1</parameter>",
        '<seed:tool_call>\n<function=get>\n<parameter=city>Zürich <b>, "x"</parameter>\n<parameter=days>3</parameter>\n'
        '<parameter=fine>true</parameter>\n<parameter=of>[1, {"a": "b"}]</parameter>\n<parameter=to>null</parameter>\n'
        "</function>\n</seed:tool_call>\n<seed:tool_call>\n<function=get_all>\n</function>\n</seed:tool_call>",
    ),
    Known(
        "GLM-4.5",
        "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n<arg_value>{arg-value-1}</arg_value>",
        '<tool_call>get\n<arg_key>city</arg_key>\n<arg_value>Zürich <b>, "x"</arg_value>\n<arg_key>days</arg_key>\n'
        "<arg_value>3</arg_value>\n<arg_key>fine</arg_key>\n<arg_value>true</arg_value>\n<arg_key>of</arg_key>\n"
        '<arg_value>[1, {"a": "b"}]</arg_value>\n<arg_key>to</arg_key>\n<arg_value>null</arg_value>\n</tool_call>\n'
        "<tool_call>get_all\n</tool_call>",
    ),
    Known(
        "GLM-4.7",
        "'<tool_call>' + tc.name <arg_key>{{ k }}</arg_key><arg_value>",
        '<tool_call>get<arg_key>city</arg_key><arg_value>Zürich <b>, "x"</arg_value><arg_key>days</arg_key>'
        "<arg_value>3</arg_value><arg_key>fine</arg_key><arg_value>true</arg_value><arg_key>of</arg_key>"
        '<arg_value>[1, {"a": "b"}]</arg_value><arg_key>to</arg_key><arg_value>null</arg_value></tool_call>'
        "<tool_call>get_all</tool_call>",
    ),
    Known(
        "DeepSeek V3.2",
        '{%- set dsml_token = "｜DSML｜" -%} <{{ dsml_token }}function_calls>',
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get">\n<｜DSML｜parameter name="city" string="true">Zürich '
        '<b>, "x"</｜DSML｜parameter>\n<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="fine" string="false">true</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="of" string="false">[1, {"a": "b"}]</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="to" string="false">null</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
        '<｜DSML｜invoke name="get_all">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
    ),
    Known(
        "DeepSeek V4",
        '{%- set dsml_token = "｜DSML｜" -%} <{{ dsml_token }}tool_calls>',
        '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="get">\n<｜DSML｜parameter name="city" string="true">Zürich '
        '<b>, "x"</｜DSML｜parameter>\n<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="fine" string="false">true</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="of" string="false">[1, {"a": "b"}]</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="to" string="false">null</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
        '<｜DSML｜invoke name="get_all">\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>',
    ),
    Known(
        "DeepSeek V3, R1",
        "'<｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + tool['function']['name'] + '\\n' + '```json'",
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get\n```json\n{JSON}\n```<｜tool▁call▁end｜>\n"
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_all\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    Known(
        "DeepSeek V3.1",
        "'<｜tool▁call▁begin｜>'+ tool['function']['name'] + '<｜tool▁sep｜>' + tool['function']['arguments']",
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get<｜tool▁sep｜>{JSON}<｜tool▁call▁end｜>"
        "<｜tool▁call▁begin｜>get_all<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    Known(
        "MiniMax M2",
        "{%- set toolcall_begin_token = '<minimax:tool_call>' -%}'<invoke name=\"' + tool_call.name",
        '<minimax:tool_call>\n<invoke name="get">\n<parameter name="city">Zürich <b>, "x"</parameter>\n'
        '<parameter name="days">3</parameter>\n<parameter name="fine">true</parameter>\n'
        '<parameter name="of">[1, {"a": "b"}]</parameter>\n<parameter name="to">null</parameter>\n</invoke>\n'
        '<invoke name="get_all">\n</invoke>\n</minimax:tool_call>',
    ),
    Known(
        "Kimi K2",
        "<|tool_calls_section_begin|><|tool_call_begin|>{{ formatted_id }}<|tool_call_argument_begin|>",
        f"<|tool_calls_section_begin|><|tool_call_begin|>functions.get:0<|tool_call_argument_begin|>{JSON}"
        "<|tool_call_end|><|tool_call_begin|>functions.get_all:1<|tool_call_argument_begin|>{}<|tool_call_end|>"
        "<|tool_calls_section_end|>",
    ),
    Known(
        "LFM2",
        '"<|tool_call_start|>[" + (tool_calls_ns.tool_calls | join(", ")) + "]<|tool_call_end|>"',
        '<|tool_call_start|>[get(city="Zürich <b>, \\"x\\"", days=3, fine=True, of=[1, {"a": "b"}], to=None), '
        "get_all()]<|tool_call_end|>",
    ),
    Known(
        "Olmo 3",
        "<function_calls>\\nget_weather(city='New York', units='celsius')\\n</function_calls>",
        '<function_calls>\nget(city="Zürich <b>, \\"x\\"", days=3, fine=true, of=[1, {"a": "b"}], to=null)\n'
        "get_all()\n</function_calls>",
    ),
    Known(
        "Gemma 4",
        "'<|tool_call>call:' + function['name'] + '{'",
        '<|tool_call>call:get{city:<|"|>Zürich <b>, "x"<|"|>,days:3,fine:true,of:[1,{a:<|"|>b<|"|>}],to:null}'
        "<tool_call|><|tool_call>call:get_all{}<tool_call|>",
    ),
    Known(
        "FunctionGemma",
        "'<start_function_call>call:' + function['name'] + '{'",
        '<start_function_call>call:get{city:<escape>Zürich <b>, "x"<escape>,days:3,fine:true,'
        "of:[1,{a:<escape>b<escape>}],to:null}<end_function_call><start_function_call>call:get_all{}<end_function_call>",
    ),
    Known(
        "Command R7B",
        '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "direct-injected-document"',
        f'<|START_ACTION|>[\n    {{"tool_call_id": "0", "tool_name": "get", "parameters": {JSON}}},\n'
        '    {"tool_call_id": "1", "tool_name": "get_all", "parameters": {}}\n]<|END_ACTION|>',
    ),
    Known(
        "Nemotron Nano 2",
        '<TOOLCALL>[{{"name": "tool_name1", "arguments": "tool_args1"}}, ',
        f'<TOOLCALL>[{{"name": "get", "arguments": {JSON}}}, {{"name": "get_all", "arguments": {{}}}}]</TOOLCALL>',
    ),
    Known(
        "Hunyuan A13B",
        '<tool_calls>[{"name": "func_name1", "arguments": {"argument1": "value1"',
        f'<tool_calls>[{{"name": "get", "arguments": {JSON}}}, {{"name": "get_all", "arguments": {{}}}}]</tool_calls>',
    ),
]


@pytest.fixture(params=KNOWN, ids=lambda known: known.models)
def known(request: pytest.FixtureRequest) -> Known:
    found: Known = request.param
    return found


def form_of(known: Known) -> ToolFormat:
    return tool_format_of(f"{known.signs} <tool_call>" if "GLM" in known.models else known.signs)


@cache
def tokenizer_of(known: Known, has_markers: bool) -> Tokenizer:
    entry = form_of(known)
    markers = {*SPECIAL, *entry.markers} if has_markers else {*SPECIAL} - {*entry.markers}
    return tokenizer_with(template_of(entry), special=("<eos>", *sorted(markers - {"<eos>"})))


def test_it_is_recognised_and_spelled(known: Known) -> None:
    entry = form_of(known)
    assert known.models in entry.models
    assert entry.spelled(CALLS) == known.text
    said = [{"function": {"name": name, "arguments": arguments}} for name, arguments in CALLS]
    chat = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": said}]
    assert ChatTemplate(template_of(entry)).render(chat, tools=TOOLS).endswith(f"[assistant]{known.text}")


@pytest.mark.parametrize("has_markers", [True, False])
def test_it_is_read_whole_and_at_every_cut(known: Known, has_markers: bool) -> None:
    tokenizer = tokenizer_of(known, has_markers)
    form = AnswerFormat.of(tokenizer)
    assert (set(form.tool_format.markers) <= form.token_ids.keys()) == has_markers
    text, tools = f"So:\n{known.text}", ToolSet.of(TOOLS)
    shown = tokenizer.detokenizer(visible_token_ids=form.visible_token_ids)
    assert "".join([*map(shown.push, tokenizer.encode(text, add_special_tokens=False)), shown.finish()]) == text
    whole = heard(form.parser(tools), [text])
    assert whole == ("So:\n", CALLS, [arguments for _, arguments in CALLS])
    assert heard(form.parser(tools), [*text]) == whole
    for place in range(len(text)):
        assert heard(form.parser(tools), [text[:place], text[place:]]) == whole
        assert heard(form.parser(tools), [*text[:place]])[1] in (CALLS, CALLS[:1], []), "those that are complete"


def test_arguments_are_streamed_as_they_come(known: Known) -> None:
    parser = AnswerFormat.of(tokenizer_of(known, has_markers=True)).parser(ToolSet.of(TOOLS))
    deltas = [parser.push(character) for character in known.text]
    pieces = [call for delta in deltas for call in delta.tool_calls if call.index == 0]
    assert len(pieces) > 10
    assert "".join(piece.arguments for piece in pieces) == JSON


class Forced:
    """The grammar of forced calls of some tools, and llguidance's opinion of texts."""

    def __init__(self, known: Known, tools: ToolSet, *, has_markers: bool) -> None:
        self.tokenizer = tokenizer_of(known, has_markers)
        self.form = AnswerFormat(tool_format=form_of(known), token_ids=AnswerFormat.of(self.tokenizer).token_ids)
        constraint = self.form.constraint(tools)
        assert constraint is not None
        self.judge = llguidance.LLTokenizer(self.tokenizer.backend.to_str(), eos_token=self.tokenizer.eos_token_ids[0])
        self._grammar = llguidance.LLMatcher.grammar_from_lark(str(constraint.grammar))

    def matcher(self) -> llguidance.LLMatcher:
        matcher = llguidance.LLMatcher(self.judge, self._grammar)
        assert not matcher.is_error(), matcher.get_error()
        return matcher

    def accepts(self, text: str) -> bool:
        matcher, tokens = self.matcher(), self.tokenizer.encode(text, add_special_tokens=False)
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@pytest.mark.parametrize("has_markers", [True, False])
def test_calls_are_forced(known: Known, has_markers: bool) -> None:
    forced = Forced(known, ToolSet.of(TOOLS, "required"), has_markers=has_markers)
    spelled = forced.form.tool_format.spelled
    assert forced.accepts(known.text), "what the model learnt can be written"
    assert forced.accepts(spelled([("get", '{"city": "x", "of": []}')]))
    assert forced.accepts(spelled([("get_all", "{}")]))
    for wrong in ('{"days": 3}', '{"city": "x", "days": 12}', '{"city": "x", "more": 1}', '{"city": "x", "fine": 1}'):
        assert not forced.accepts(spelled([("get", wrong)]))
    assert not forced.accepts(spelled([("got", "{}")]))
    assert not forced.accepts(f"{known.text}So")


@pytest.mark.parametrize("has_markers", [True, False])
def test_whatever_is_written_is_read_as_calls(known: Known, has_markers: bool) -> None:
    tools = ToolSet.of(CHOSEN_TOOLS, "required")
    forced = Forced(known, tools, has_markers=has_markers)
    named = set()
    for seed in range(8):
        text = written_at_random(forced.matcher(), forced.judge, forced.tokenizer, seed)
        content, calls, streamed = heard(forced.form.parser(tools), [text])
        assert (content, streamed) == ("", [arguments for _, arguments in calls])
        assert calls
        for name, arguments in calls:
            jsonschema.validate(json.loads(arguments), CHOSEN if name == "get" else {"maxProperties": 0})
            named.add(name)
    assert named == {"get", "get_all"}


MANY_NAMES = ("mcp:files.v2/read-it", "mcp:files.v2/read", "a" * 128, ".", "functions.get:0")
NAMED_TOOLS = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in MANY_NAMES]


@pytest.mark.parametrize("entry", TOOL_FORMATS, ids=lambda entry: f"{entry.name} {entry.models}")
def test_names_of_several_servers_tools_are_read(entry: ToolFormat) -> None:
    form = AnswerFormat(tool_format=entry, token_ids={})
    for name in MANY_NAMES:
        text = entry.spelled([(name, JSON)])
        whole = heard(form.parser(ToolSet.of(NAMED_TOOLS)), [text])
        assert whole[1] == [(name, JSON)], text
        assert heard(form.parser(ToolSet.of(NAMED_TOOLS)), [*text]) == whole


def test_names_of_several_servers_tools_are_forced(known: Known) -> None:
    forced = Forced(known, ToolSet.of(NAMED_TOOLS, "required"), has_markers=True)
    for name in MANY_NAMES:
        assert forced.accepts(forced.form.tool_format.spelled([(name, JSON)]))


def test_a_text_of_several_lines_follows_its_grammar(known: Known) -> None:
    """What a custom tool takes, whether arguments are JSON here or not."""
    text = {"type": "string", "pattern": lark_regex('start: ("+" /.*/ LF)+\n%import common.LF')}
    parameters = {"type": "object", "properties": {"input": text}, "required": ["input"]}
    patch = {"type": "function", "function": {"name": "patch", "parameters": parameters, "strict": True}}
    forced = Forced(known, ToolSet.of([patch], "required"), has_markers=True)
    for written, follows in (('+a\n+"b" \\n\n', True), ("+a\n b\n", False), ("", False)):
        spelled = forced.form.tool_format.spelled([("patch", json.dumps({"input": written}))])
        assert forced.accepts(spelled) == follows, spelled


def test_every_entry_is_tested() -> None:
    elsewhere = {"mistral", "granite", "hermes", "llama3", "json", "harmony"}
    assert {entry.models for entry in TOOL_FORMATS if entry.name not in elsewhere} == {
        form_of(known).models for known in KNOWN
    }


def test_the_most_specific_sign_decides() -> None:
    for index, entry in enumerate(formats.TOOL_FORMATS):
        for other in formats.TOOL_FORMATS[:index]:
            assert not all(any(sign in mine for mine in entry.signs) for sign in other.signs)


@pytest.mark.parametrize("name", ["hermes", "qwen xml"])
def test_five_hundred_tools_can_be_forced(name: str) -> None:
    """Their names and schemas do not count as a grammar that somebody wrote; one that somebody did still does."""
    entry = next(entry for entry in TOOL_FORMATS if entry.name == name)
    tools = [{"type": "function", "function": {"name": f"{'n' * 120}{n}", "parameters": CHOSEN}} for n in range(512)]
    tokenizer = tokenizer_with(template_of(entry), special=("<eos>",))
    grammars = Grammars(tokenizer.backend, tokenizer.vocab_size, tokenizer.eos_token_ids)
    form = AnswerFormat(tool_format=entry, token_ids={})
    wanted = form.constraint(ToolSet.of(tools, "required"))
    assert wanted is not None
    assert grammars.constraint(wanted).mask().any()
    written = ConstraintConfig(kind="lark", grammar="start: " + '"x" ' * 10_000)
    both = form.constraint(ToolSet.of(tools, parallel_tool_calls=False), form=written)
    assert both is not None
    with pytest.raises(ConfigError, match="at most 32768"):
        grammars.constraint(both)
