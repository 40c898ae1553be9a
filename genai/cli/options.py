"""Options that several commands share.

Those of generation come from the table of options, and `taking` adds them to a command: what is given becomes keyword
arguments of `LLM.generate`; what is not given is the model's own default. Values are checked where every caller's are.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer

from genai.config import Device, Precision
from genai.errors import ConfigError
from genai.options.generation_config import ALIASES, OPTIONS
from genai.options.option import Entry, Flag, FlagGroup
from genai.options.rules import Number, OneOf, Whole, strings, switch, words

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A known name (see `genai models`), a folder, a .gguf or .onnx file, a hub id."
    ),
]
PrecisionOption = Annotated[
    Precision, typer.Option("--precision", "-p", help="Weights' precision; auto: as the weights come, on a CPU.")
]
DeviceOption = Annotated[
    Device, typer.Option(help="Where to run; auto: CUDA if ONNX Runtime has it (not yet run on a device).")
]
Threads = Annotated[int | None, typer.Option(min=1, metavar="N", help="CPU threads. [default: one per core]")]
MaxSeqLen = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Longest sequence, in tokens. [default: the model's own]")
]
KeepBits = Annotated[
    bool | None,
    typer.Option(
        "--same-bits/--no-same-bits",
        help="Whether texts are the same to the bit whatever runs beside; without, one alone may be faster.",
        show_default="yes",
    ),
]
System = Annotated[str | None, typer.Option("--system", "-s", metavar="TEXT", help="A system message.")]
Draft = Annotated[str | None, typer.Option("--draft", metavar="MODEL", help="A smaller model that foresees tokens.")]
Adapter = Annotated[
    str | None,
    typer.Option("--adapter", metavar="NAME=PATH", help="A LoRA adapter to answer with: a PEFT folder, a .gguf file."),
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter", metavar="NAME=PATH", help="A LoRA adapter that requests may name; may be given several times."
    ),
]
Timeout = Annotated[float | None, typer.Option(min=0, metavar="SECONDS", help="End the text after so long.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace the model that lies where this one is to be.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


Keywords: TypeAlias = dict[str, Any]
"""Keyword arguments; names and values are checked by who takes them."""
Flags: TypeAlias = Mapping[str, object]
"""Options by their Python names, each the annotated type that typer reads."""


def _text(help_text: str, *names: str, metavar: str = "TEXT") -> object:
    return Annotated[str | None, typer.Option(*names, metavar=metavar, help=help_text)]


def _texts(help_text: str, *names: str, metavar: str = "TEXT") -> object:
    help_text += "; may be given several times."
    return Annotated[list[str] | None, typer.Option(*names, metavar=metavar, help=help_text)]


def _typed(entry: Entry, flag: Flag) -> object:
    """The flag of an option of generation."""
    rule = entry.option.rule
    names = [f"--{entry.flag_name.replace('_', '-')}", *([flag.short] if flag.short else ())]
    told: dict[str, Any] = {"help": flag.says or entry.option.says}
    if rule is switch:
        return Annotated[bool | None, typer.Option(*names, **told)]
    if rule in (strings, words):
        return _texts(told["help"], *names)
    match rule:
        case Number():
            low = rule.above if rule.least is None else rule.least
            return Annotated[float | None, typer.Option(*names, min=low, max=rule.most, metavar="X", **told)]
        case Whole():
            return Annotated[int | None, typer.Option(*names, min=rule.least, metavar="N", **told)]
        case OneOf():
            return Annotated[Literal[rule.words] | None, typer.Option(*names, **told)]
    return _text(told["help"], *names, metavar=flag.metavar or "TEXT")


_FLAGS = {entry.flag_name: (entry, entry.option.flag) for entry in OPTIONS.values() if entry.option.flag}


def _group(group: FlagGroup) -> Flags:
    return {name: _typed(entry, flag) for name, (entry, flag) in _FLAGS.items() if flag.group == group}


GENERATION: Flags = {
    **_group("text"),
    "set": _texts("Any other option of docs/options.md; VALUE is JSON or text", "--set", metavar="NAME=VALUE"),
}
"""What every text can be asked for."""

SEVERAL = _group("several")
"""What a conversation has no place for."""

PROMPT = _group("prompt")
"""What is told of the prompt."""

CHAT: Flags = {
    "template_option": _texts("A variable of the chat template (enable_thinking=false)", metavar="NAME=VALUE"),
}
"""What goes with messages."""

TOOLS: Flags = {
    "tools": _text("Functions that the model may call, as OpenAI describes them.", metavar="JSON|@FILE"),
    "tool_choice": _text("auto, none, required, or a function's name."),
    "parallel_tool_calls": Annotated[
        bool | None,
        typer.Option("--parallel-tool-calls/--single-tool-call", help="Whether several may be called at once."),
    ],
}
"""Functions; a script has to answer the calls."""


_FROM_FILES = {"tools"} | {entry.name for entry, flag in _FLAGS.values() if flag.metavar.endswith("@FILE")}
_EVERY: Flags = {**GENERATION, **SEVERAL, **PROMPT, **CHAT, **TOOLS}


def taking(*groups: Flags, max_new_tokens: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these options; its parameter `generation` gets them as keyword arguments.

    max_new_tokens: what holds if the user does not say.
    """
    flags = {name: flag for group in groups for name, flag in group.items()}
    names = ("--max-new-tokens", "--max-tokens", "-n")
    limit = typer.Option(*names, min=1, metavar="N", help="Write at most this many tokens.")

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name != "generation"]
        kind = inspect.Parameter.KEYWORD_ONLY
        added = [
            inspect.Parameter("max_new_tokens", kind, default=max_new_tokens, annotation=Annotated[int, limit]),
            *(inspect.Parameter(name, kind, default=None, annotation=flag) for name, flag in flags.items()),
        ]

        @functools.wraps(command)
        def taken(**arguments: Any) -> None:
            chosen = {name: arguments.pop(name) for name in ("max_new_tokens", *flags)}
            command(**arguments, generation=generation_of(chosen))

        taken.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        return taken

    return decorate


def generation_of(flags: Mapping[str, Any]) -> Keywords:
    """Keyword arguments from a command's flags; those that were not given are None. Raises: ConfigError."""
    options = {_FLAGS[name][0].name if name in _FLAGS else name: value for name, value in given(**flags).items()}
    for name in _FROM_FILES & options.keys():
        options[name] = _inline(f"--{name.replace('_', '-')}", options[name])
    if "tools" in options:
        options["tools"] = _json("--tools", options["tools"])
    if "tool_choice" in options:
        options["tool_choice"] = _tool_choice(options["tool_choice"])
    if "top_logprobs" in options:
        options["logprobs"] = True
    if "template_option" in options:
        options["template_options"] = _pairs("--template-option", options.pop("template_option"))
    others = _pairs("--set", options.pop("set", ()))
    for name in others:
        if (named := ALIASES.get(name, name)) in flags:
            raise ConfigError(f"--set {name}: write --{named.replace('_', '-')}")
        if name in _EVERY or name in options:
            raise ConfigError(f"--set {name}: " + ("it is given twice" if name in options else "not with this command"))
    return options | others


def adapter_of(text: str) -> tuple[str, str]:
    """(name, path) of NAME=PATH. Raises: ConfigError."""
    name, equals, path = text.partition("=")
    if not (equals and name and path):
        raise ConfigError(f"--adapter {text}: must be NAME=PATH")
    return name, path


def name_of(adapter: str | None) -> str | None:
    """What an adapter that is given as NAME=PATH is called. Raises: ConfigError."""
    return None if adapter is None else adapter_of(adapter)[0]


def adapters_of(texts: Iterable[str]) -> dict[str, str]:
    """Paths by name. Raises: ConfigError, also for a name that is given twice."""
    paths: dict[str, str] = {}
    for name, path in map(adapter_of, texts):
        if name in paths:
            raise ConfigError(f"--adapter {name}=…: the name is given twice")
        paths[name] = path
    return paths


def check_output(output: Path, *, force: bool) -> None:
    """What is there is replaced only when that was asked for. Raises: ConfigError."""
    what = {"genai.json": "a model package", "export.json": "an exported model"}
    there = next((said for name, said in what.items() if (output / name).is_file()), None)
    if there is not None and not force:
        raise ConfigError(f"{output} holds {there} already: --force replaces it, or name another folder")


def given(**options: object) -> Keywords:
    """Only the options that were given, so that the model's own defaults hold for the others."""
    return {name: value for name, value in options.items() if value is not None}


def _inline(flag: str, value: str) -> str:
    """A text, or what is in the file that `@FILE` names."""
    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{flag}: cannot read {value[1:]}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{flag}: {value[1:]} is not UTF-8 (byte {error.start})") from None


def _json(flag: str, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{flag}: this is not JSON ({error}); write @FILE for a file") from None


def _tool_choice(text: str) -> object:
    if text in ("auto", "none", "required"):
        return text
    return {"type": "function", "function": {"name": text}}


def _pairs(flag: str, texts: Iterable[str]) -> Keywords:
    """NAME=VALUE pairs; a value that is no JSON is a text."""
    pairs: Keywords = {}
    for text in texts:
        name, separator, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not separator or not name:
            raise ConfigError(f"{flag} {text}: must be NAME=VALUE")
        if name in pairs:
            raise ConfigError(f"{flag} {name}=…: the option is given twice")
        try:
            pairs[name] = json.loads(value)
        except (ValueError, RecursionError):
            pairs[name] = value
    return pairs
