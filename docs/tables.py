"""Writes what pages tell of options, fields, formats and models, from tables: `python -m docs.tables`, or `make docs`.

A table stands between `<!-- options: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from genai.build.architectures import described, supported
from genai.build.architectures.refused import REFUSED as REFUSED_MODELS
from genai.chat.formats import TOOL_FORMATS
from genai.options.generation_config import OPTIONS
from genai.options.option import Entry
from genai.requests.chat import ChatRequest
from genai.requests.completions import CompletionRequest
from genai.requests.foreign import HARMLESS, REFUSED, RENAMED
from genai.requests.generation import served

if TYPE_CHECKING:
    from tests.families.case import Case

PAGES = tuple(Path(__file__).with_name(name) for name in ("models.md", "options.md", "server.md", "tools.md"))
_PLACES = {
    "sampling_config": "how a token is chosen (`sampling_config`)",
    "beam_search_config": "how texts are compared (`beam_search_config`)",
    "constraint": "what the text must look like (`constraint`; [constraints](constraints.md))",
}


def every_option() -> str:
    """All options: what they do, their defaults, and what others call them."""
    head = ("option", "", "default", "transformers", "OpenVINO GenAI", "onnxruntime-genai", "OpenAI, vLLM", "flag")
    rows, place = [head, ("---",) * len(head)], ""
    for entry in OPTIONS.values():
        here = entry.path[0] if entry.path[0] in _PLACES else "GenerationConfig"
        if here != place and rows[2:]:
            rows.append((f"**{_PLACES.get(here, 'how it is run, and what is told')}**", *[""] * (len(head) - 1)))
        place = here
        flag = f"`--{entry.flag_name.replace('_', '-')}`" if entry.option.flag else ""
        rows.append((f"`{entry.name}`", entry.option.says, _default(entry), *entry.option.peers, flag))
    return _table(rows)


def request_fields() -> str:
    """The options that requests have fields of, within which bounds."""
    rows: list[tuple[str, ...]] = [("field", "", "", "chat", "completions"), ("---", "---", "---", ":---:", ":---:")]
    models = {"chat": ChatRequest, "completion": CompletionRequest}
    kinds = {kind: served(kind) for kind in models}
    for name in {**kinds["chat"], **kinds["completion"]}:
        told = [kind for kind in models if name in kinds[kind]]
        field = models[told[0]].model_fields[name]
        schema = models[told[0]].model_json_schema()["properties"][name]["anyOf"]
        marks = ("✓" if kind in told else "" for kind in models)
        rows.append((f"`{name}`", field.description or "", ", or ".join(filter(None, map(_bounds, schema))), *marks))
    return _table(rows)


def renamed_fields() -> str:
    """Fields that are known by other names too."""
    by_name: dict[str, list[str]] = {}
    for other, own in RENAMED.items():
        by_name.setdefault(own, []).append(f"`{other}`")
    return _table([("field", "also"), ("---",) * 2, *((f"`{own}`", ", ".join(all_)) for own, all_ in by_name.items())])


def harmless_fields() -> str:
    """Fields that are ignored without a word, by why."""
    return _by_reason((f"`{name}`", why) for name, why in HARMLESS.items())


def refused_fields() -> str:
    """Fields that are refused, by what to do instead; in brackets what they may be."""
    told = []
    for name, entry in REFUSED.items():
        off = " or ".join(f"`{json.dumps(value)}`" for value in entry.off)
        told.append((f"`{name}`" + (f" ({off})" if off else ""), entry.why))
    return _by_reason(told)


def _by_reason(fields: Iterable[tuple[str, str]], head: str = "fields") -> str:
    by_reason: dict[str, list[str]] = {}
    for name, why in fields:
        by_reason.setdefault(why, []).append(name)
    return _table([(head, ""), ("---",) * 2, *((", ".join(names), why) for why, names in by_reason.items())])


def tool_formats() -> str:
    """The formats of calls: two of them, as each is written."""
    rows: list[tuple[str, ...]] = [("format", "models", "written as"), ("---", "---", "---")]
    for entry in dict.fromkeys(TOOL_FORMATS):
        calls = [("f", '{"a": "x", "n": 3}'), ("g", "{}")]
        written = entry.spelled(calls if entry.is_parallel else calls[:1])
        fence = "``" if "`" in written else "`"
        row = (entry.name, entry.models, f"{fence}{written}{fence}".replace("\n", "⏎"))
        if row not in rows:
            rows.append(row)
    return _table(rows)


def models() -> str:
    """The model types: what each is, what llama.cpp calls it, and how it is proved to be right."""
    from tests.families.cases import CASES, INSIDE

    by_type: dict[str, list[Case]] = {model_type: [] for model_type in supported() if model_type not in INSIDE}
    for case in CASES.values():
        by_type.setdefault(case.model_type, []).append(case)
    rows: list[tuple[str, ...]] = [("model type", "", "GGUF", "tiny", "GGUF of it", "real file"), ("---",) * 6]
    for model_type, cases in sorted(by_type.items()):
        arches = sorted({f"`{case.gguf.arch}`" for case in cases if case.gguf})
        towers = {case.tower.text for case in cases if case.tower}
        says = f"The text part, `{towers.pop()}`." if towers else described(model_type)
        tiny = (str(len(cases)), str(sum(case.gguf is not None for case in cases) or "–"))
        real = [f"[test](../{case.real})" for case in cases if case.real]
        rows.append((f"`{model_type}`", says, ", ".join(arches) or "–", *tiny, ", ".join(real) or "–"))
    return _table(rows)


def refused_models() -> str:
    """The model types that are refused, by the reason."""
    told = ((f"`{name}` {refusal.which}".rstrip(), refusal.reason) for name, refusal in REFUSED_MODELS.items())
    return _by_reason(told, "model types")


def _default(entry: Entry) -> str:
    default, rule = entry.default, entry.option.rule
    if entry.option.unset:
        return entry.option.unset
    if default is not None and default == getattr(rule, "off", None):
        return "off"
    if default in (None, (), {}):
        return "none"
    if isinstance(default, tuple):
        return " ".join(f"`{json.dumps(each)}`" for each in default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def _bounds(schema: Mapping[str, object]) -> str:
    """The bounds of one of a field's types."""
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, most = schema.get("maximum"), schema.get("maxItems")
    if most is not None:
        return f"at most {most}"
    start = f"from {low:g}" if isinstance(low, int | float) else f"above {above:g}" if above is not None else ""
    return f"{start} to {high:g}".strip() if isinstance(high, int | float) else start


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "all": every_option,
    "fields": request_fields,
    "formats": tool_formats,
    "models": models,
    "refused_models": refused_models,
    "renamed": renamed_fields,
    "harmless": harmless_fields,
    "refused": refused_fields,
}


def written(page: str) -> str:
    """A page with its tables as they are now."""
    return re.sub(
        r"(<!-- options: (\w+) -->\n\n?).*?(\n?<!-- end -->)",
        lambda found: f"<!-- options: {found[2]} -->\n\n{TABLES[found[2]]()}\n<!-- end -->",
        page,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")
