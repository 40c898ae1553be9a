"""How models write reasoning and tool calls: two tables, from which everything else about a format follows.

A further format is one more entry: templates are recognised, calls read and forced, and conversations spelled by it.
What calls may look like is data too (`genai.chat.shapes`). Each entry was written from a real template or parser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from genai.chat.shapes import Channels, JsonCall, NamedCall, Opener, Pairs, ReasoningMarkers, ToolFormat

KNOWN_REASONING = (
    ReasoningMarkers(open="<think>", close="</think>"),  # Qwen3, DeepSeek R1, SmolLM3, Olmo 3, Granite 3.3, Phi-4
    ReasoningMarkers(open="[THINK]", close="[/THINK]"),  # Magistral and later models of Mistral
    ReasoningMarkers(open="<|channel>", label="thought", close="<channel|>"),  # Gemma 4
    ReasoningMarkers(open="<seed:think>", close="</seed:think>"),  # Seed-OSS
    ReasoningMarkers(open="<|START_THINKING|>", close="<|END_THINKING|>"),  # Command A Reasoning
    ReasoningMarkers(open="◁think▷", close="◁/think▷"),  # Kimi-VL
    ReasoningMarkers(open="<|begin_of_thought|>", close="<|end_of_thought|>"),  # OpenThinker, Sky-T1
)


_HERMES = ToolFormat(
    name="hermes",
    models="Hermes, Qwen2.5, Qwen3, SmolLM3, Granite 4",
    signs=("<tool_call>",),
    openers=(Opener(text="<tool_call>", close="</tool_call>"),),
    before="<tool_call>\n",
    between="\n</tool_call>\n<tool_call>\n",
    after="\n</tool_call>",
)
_LLAMA3 = ToolFormat(
    name="llama3",
    models="Llama 3.1 and later; also behind `<|python_tag|>`, and with `;` between",
    signs=("<|python_tag|>",),
    openers=(Opener(text="<|python_tag|>"), Opener(text="{", place="start", is_part=True)),
    json=JsonCall(arguments_key="parameters"),
    is_parallel=False,
)
_MISTRAL = ToolFormat(
    name="mistral",
    models="Mistral 7B v0.3, Nemo, Small 3",
    signs=("[TOOL_CALLS]",),
    openers=(Opener(text="[TOOL_CALLS]"),),
    inner_markers=("[CALL_ID]", "[ARGS]"),
    named=NamedCall(id_marker="[CALL_ID]", before_arguments="[ARGS]"),
    before="[TOOL_CALLS][",
    after="]",
)
_QWEN_XML = ToolFormat(
    name="qwen xml",
    models="Qwen3-Coder, Qwen3.5, Nemotron 3",
    signs=("<function=", "<parameter="),
    openers=(Opener(text="<tool_call>", close="</tool_call>"), Opener(text="<function=", is_part=True)),
    named=NamedCall(
        before_name="<function=",
        before_arguments=">\n",
        pairs=Pairs(before_key="<parameter=", after_key=">\n", after_value="\n</parameter>\n"),
        after_arguments="</function>",
    ),
    is_named=True,
    before="<tool_call>\n",
    between="\n</tool_call>\n<tool_call>\n",
    after="\n</tool_call>",
)
_SEED = ToolFormat(
    name="seed",
    models="Seed-OSS",
    signs=("<seed:tool_call>",),
    openers=(Opener(text="<seed:tool_call>", close="</seed:tool_call>"),),
    named=NamedCall(
        before_name="<function=",
        before_arguments=">\n",
        pairs=Pairs(before_key="<parameter=", after_key=">", after_value="</parameter>\n"),
        after_arguments="</function>",
    ),
    is_named=True,
    before="<seed:tool_call>\n",
    between="\n</seed:tool_call>\n<seed:tool_call>\n",
    after="\n</seed:tool_call>",
)
_GLM = ToolFormat(
    name="glm",
    models="GLM-4.5, GLM-4.6",
    signs=("<arg_key>",),
    openers=(Opener(text="<tool_call>", close="</tool_call>"),),
    inner_markers=("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    named=NamedCall(
        before_arguments="\n",
        pairs=Pairs(before_key="<arg_key>", after_key="</arg_key>\n<arg_value>", after_value="</arg_value>\n"),
    ),
    is_named=True,
    before="<tool_call>",
    between="</tool_call>\n<tool_call>",
    after="</tool_call>",
)
_GLM_47 = replace(
    _GLM,
    models="GLM-4.7",
    signs=("</arg_key><arg_value>",),
    named=NamedCall(pairs=Pairs(before_key="<arg_key>", after_key="</arg_key><arg_value>", after_value="</arg_value>")),
    between="</tool_call><tool_call>",
)
_DSML = ToolFormat(
    name="dsml",
    models="DeepSeek V3.2",
    signs=("｜DSML｜", "function_calls>"),
    openers=(Opener(text="<｜DSML｜function_calls>", close="</｜DSML｜function_calls>"),),
    inner_markers=("｜DSML｜",),
    named=NamedCall(
        before_name='<｜DSML｜invoke name="',
        before_arguments='">\n',
        pairs=Pairs(
            before_key='<｜DSML｜parameter name="',
            after_key='" string="false">',
            after_string_key='" string="true">',
            after_value="</｜DSML｜parameter>\n",
        ),
        after_arguments="</｜DSML｜invoke>\n",
    ),
    is_named=True,
    before="<｜DSML｜function_calls>\n",
    between="",
    after="</｜DSML｜function_calls>",
)
_DSML_V4 = replace(
    _DSML,
    models="DeepSeek V4",
    signs=("｜DSML｜",),
    openers=(Opener(text="<｜DSML｜tool_calls>", close="</｜DSML｜tool_calls>"),),
    before="<｜DSML｜tool_calls>\n",
    after="</｜DSML｜tool_calls>",
)
_DEEPSEEK_V31 = ToolFormat(
    name="deepseek",
    models="DeepSeek V3.1",
    signs=("<｜tool▁sep｜>",),
    openers=(Opener(text="<｜tool▁calls▁begin｜>", close="<｜tool▁calls▁end｜>"),),
    inner_markers=("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
    named=NamedCall(
        before_name="<｜tool▁call▁begin｜>", before_arguments="<｜tool▁sep｜>", after_arguments="<｜tool▁call▁end｜>"
    ),
    is_named=True,
    before="<｜tool▁calls▁begin｜>",
    between="",
    after="<｜tool▁calls▁end｜>",
)
_DEEPSEEK_V3 = replace(
    _DEEPSEEK_V31,
    models="DeepSeek V3, R1",
    signs=("<｜tool▁sep｜>", "```json"),
    named=NamedCall(
        before_name="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        before_arguments="\n```json\n",
        after_arguments="\n```<｜tool▁call▁end｜>",
    ),
    between="\n",
)
_MINIMAX = ToolFormat(
    name="minimax",
    models="MiniMax M2",
    signs=("<minimax:tool_call>",),
    openers=(Opener(text="<minimax:tool_call>", close="</minimax:tool_call>"),),
    named=NamedCall(
        before_name='<invoke name="',
        before_arguments='">\n',
        pairs=Pairs(before_key='<parameter name="', after_key='">', after_value="</parameter>\n"),
        after_arguments="</invoke>\n",
    ),
    is_named=True,
    before="<minimax:tool_call>\n",
    between="",
    after="</minimax:tool_call>",
)
_KIMI = ToolFormat(
    name="kimi",
    models="Kimi K2",
    signs=("<|tool_call_argument_begin|>",),
    openers=(Opener(text="<|tool_calls_section_begin|>", close="<|tool_calls_section_end|>"),),
    inner_markers=("<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"),
    named=NamedCall(
        before_name="<|tool_call_begin|>functions.",
        id_marker=":",
        is_numbered=True,
        before_arguments="<|tool_call_argument_begin|>",
        after_arguments="<|tool_call_end|>",
    ),
    is_named=True,
    before="<|tool_calls_section_begin|>",
    between="",
    after="<|tool_calls_section_end|>",
    history_id="functions.{name}:{index}",
)
_LFM2 = ToolFormat(
    name="lfm2",
    models="LFM2, LFM2.5",
    signs=("<|tool_call_start|>",),
    openers=(Opener(text="<|tool_call_start|>", close="<|tool_call_end|>"),),
    named=NamedCall(
        before_arguments="(", pairs=Pairs(after_key="=", between=", ", values="python"), after_arguments=")"
    ),
    is_named=True,
    before="<|tool_call_start|>[",
    after="]<|tool_call_end|>",
)
_OLMO3 = ToolFormat(
    name="olmo3",
    models="Olmo 3",
    signs=("<function_calls>",),
    openers=(Opener(text="<function_calls>", close="</function_calls>"),),
    named=NamedCall(before_arguments="(", pairs=Pairs(after_key="=", between=", ", values="json"), after_arguments=")"),
    is_named=True,
    before="<function_calls>\n",
    between="\n",
    after="\n</function_calls>",
)
_GEMMA4 = ToolFormat(
    name="gemma",
    models="Gemma 4",
    signs=("<|tool_call>",),
    openers=(Opener(text="<|tool_call>", close="<tool_call|>"),),
    inner_markers=('<|"|>',),
    named=NamedCall(
        before_name="call:",
        before_arguments="{",
        pairs=Pairs(after_key=":", between=",", values="quoted", quote='<|"|>'),
        after_arguments="}",
    ),
    is_named=True,
    before="<|tool_call>",
    between="<tool_call|><|tool_call>",
    after="<tool_call|>",
)
_FUNCTION_GEMMA = replace(
    _GEMMA4,
    models="FunctionGemma",
    signs=("<start_function_call>",),
    openers=(Opener(text="<start_function_call>", close="<end_function_call>"),),
    inner_markers=("<escape>",),
    named=NamedCall(
        before_name="call:",
        before_arguments="{",
        pairs=Pairs(after_key=":", between=",", values="quoted", quote="<escape>"),
        after_arguments="}",
    ),
    before="<start_function_call>",
    between="<end_function_call><start_function_call>",
    after="<end_function_call>",
)
_COHERE = ToolFormat(
    name="cohere",
    models="Command R7B, Command A",
    signs=("<|START_ACTION|>",),
    openers=(Opener(text="<|START_ACTION|>", close="<|END_ACTION|>"),),
    json=JsonCall(name_key="tool_name", arguments_key="parameters", id_key="tool_call_id"),
    before="<|START_ACTION|>[\n    ",
    between=",\n    ",
    after="\n]<|END_ACTION|>",
)
_NEMOTRON = ToolFormat(
    name="nemotron",
    models="Nemotron Nano 2",
    signs=("<TOOLCALL>",),
    openers=(Opener(text="<TOOLCALL>", close="</TOOLCALL>"),),
    before="<TOOLCALL>[",
    after="]</TOOLCALL>",
)
_HUNYUAN = ToolFormat(
    name="hunyuan",
    models="Hunyuan A13B",
    signs=("<tool_calls>[",),
    openers=(Opener(text="<tool_calls>", close="</tool_calls>"),),
    before="<tool_calls>[",
    after="]</tool_calls>",
)
_HARMONY = ToolFormat(
    name="harmony",
    models="gpt-oss",
    signs=("<|channel|>", "<|call|>"),
    openers=(Opener(text="<|channel|>commentary to=functions."),),
    inner_markers=("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|return|>", "<|call|>"),
    named=NamedCall(before_arguments=" <|constrain|>json<|message|>"),
    is_named=True,
    before="<|channel|>commentary to=functions.",
    is_parallel=False,
    channels=Channels(),
)
GENERIC = replace(
    _HERMES,
    name="json",
    models="all others; also an object or array that begins a line, or one in a fence",
    signs=(),
    openers=(
        *_HERMES.openers,
        Opener(text="```", place="line start", close="```", has_label=True, is_constrained=False),
        Opener(text="{", place="line start", is_part=True, is_constrained=False),
        Opener(text="[", place="line start", is_part=True, is_constrained=False),
    ),
)
"""The format of models that have none: what they are told to write, and what they write all the same."""

TOOL_FORMATS = (
    _HARMONY,
    _SEED,
    _QWEN_XML,
    _GLM_47,
    _GLM,
    _DSML,
    _DSML_V4,
    _DEEPSEEK_V3,
    _DEEPSEEK_V31,
    _MINIMAX,
    _KIMI,
    _LFM2,
    replace(_LFM2, signs=("<|tool_list_start|>",)),
    _OLMO3,
    _GEMMA4,
    _FUNCTION_GEMMA,
    _COHERE,
    _NEMOTRON,
    _HUNYUAN,
    replace(
        _MISTRAL,
        models="Mistral from tokenizer v11 on",
        signs=("[TOOL_CALLS]", "[ARGS]"),
        is_named=True,
        before="[TOOL_CALLS]",
        between="[TOOL_CALLS]",
        after="",
    ),
    replace(_MISTRAL, signs=("[TOOL_CALLS] [",), before="[TOOL_CALLS] ["),
    _MISTRAL,
    ToolFormat(
        name="granite",
        models="Granite 3",
        signs=("<|tool_call|>",),
        openers=(Opener(text="<|tool_call|>"), *_HERMES.openers),
        before="<|tool_call|>[",
        after="]",
    ),
    _HERMES,
    _LLAMA3,
    replace(_LLAMA3, signs=("ipython",)),
    GENERIC,
)
"""The formats, the most specific signs first."""


def reasoning_of(channels: Channels) -> ReasoningMarkers:
    """The markers of reasoning that is a message."""
    label = f"{channels.reasoning}{channels.message}"
    return ReasoningMarkers(open=channels.channel, label=label, close=channels.begin, answer=channels.answer)


def tool_format_of(template: str) -> ToolFormat:
    """The first format whose signs a chat template's source has; the generic one where it shows none."""
    return next((known for known in TOOL_FORMATS if all(sign in template for sign in known.signs)), GENERIC)


def reasoning_begun(prompt: str | None, known: Sequence[ReasoningMarkers]) -> ReasoningMarkers | None:
    """The markers inside which an answer to this prompt begins: templates may open the reasoning themselves."""
    end = (prompt or "").rstrip()
    return next((markers for markers in known if end.endswith(markers.opening)), None)
