"""The table of options: an option is declared in one place, and everything that tells of options tells of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from docs.tables import PAGES, written
from genai.cli.options import GENERATION, PROMPT, SEVERAL
from genai.errors import ConfigError
from genai.options.generation_config import ALIASES, OPTIONS, GenerationConfig
from genai.options.rules import TokenIds, biases
from tests.source_copy import answers, changed_copy


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_tell_of_the_options_as_they_are(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    assert page == written(page), "make docs"
    assert "<!-- options: " in page


def test_names_mean_one_option() -> None:
    flags = [entry.flag_name for entry in OPTIONS.values() if entry.option.flag]
    assert sorted(flags) == sorted({*GENERATION, *SEVERAL, *PROMPT} - {"set"})
    fields = [entry.field_name for entry in OPTIONS.values() if entry.option.served]
    assert len(set(fields)) == len(fields)
    assert not ALIASES.keys() & OPTIONS.keys()
    for name, entry in OPTIONS.items():
        if entry.option.served:
            assert ALIASES.get(entry.field_name, entry.field_name) in (name, "grammar")
        if entry.option.flag:
            assert not isinstance(entry.option.rule, TokenIds), "a flag has no way to write it"
            assert entry.option.rule is not biases


def test_other_libraries_names_are_shown_where_they_are_taken() -> None:
    for alias, name in ALIASES.items():
        shown = " ".join(peer for entry in OPTIONS.values() for peer in entry.option.peers)
        assert f"`{alias}`" in shown, f"{alias}, which means {name}"


@pytest.mark.parametrize("name", [name for name, entry in OPTIONS.items() if entry.default not in (None, (), {})])
def test_defaults_pass_their_own_check(name: str) -> None:
    entry = OPTIONS[name]
    assert entry.option.rule(entry.default, name) == entry.default


@pytest.mark.parametrize("name", OPTIONS)
def test_what_is_no_value_of_an_option_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}"):
        GenerationConfig().updated(**{"num_beams": 2, name: object()})


DECLARED = """\
    sparkle: float = option(0.0, Number(least=0, most=1, off=0), "How much it sparkles.",
        aliases=("glitter",), flag=Flag(), served=Served(most=0.5), samples=True)
"""
ASKED = """
import json, sys
from docs.tables import every_option, request_fields
from genai.batch.request import request_of
from genai.cli.main import exit_code
from genai.errors import ConfigError
from genai.options.generation_config import GenerationConfig
from genai.requests.base import read
from genai.requests.chat import ChatRequest, chat_options
from genai.requests.generation import options_of
from server.app import create_app
from server.models import ModelPool
from server.settings import Settings

def told(ask):
    try:
        return ask()
    except ConfigError as error:
        return str(error)

def line(**body):
    body = {"messages": [{"role": "user", "content": "Hi"}], **body}
    return {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}

sampling = GenerationConfig().updated(glitter=0.25).sampling_config
asked = read(ChatRequest, line(sparkle=0.5)["body"])
settings = Settings(models={"fake": {"source": "nowhere"}})
answers = {
    "config": [sampling.sparkle, sampling.do_sample],
    "check": told(lambda: GenerationConfig().updated(sparkle=2)),
    "served": options_of(asked, "chat"),
    "bound": told(lambda: read(ChatRequest, line(sparkle=0.75)["body"])),
    "openapi": create_app(settings, ModelPool(settings)).openapi()["components"]["schemas"]["CompletionRequest"][
        "properties"]["sparkle"],
    "batch": [dict(request_of(line(**{name: 0.75}), ("m",)).options) for name in ("sparkle", "glitter")],
    "pages": [row for page in (every_option(), request_fields()) for row in page.splitlines() if "sparkle" in row],
}
print(json.dumps(answers))
sys.exit(exit_code(["run", "--help"]))
"""


def test_an_option_is_declared_once(tmp_path: Path) -> None:
    """A copy of the code with one more option, and nothing else changed."""
    changed_copy(tmp_path, "genai/options/decoding_config.py", "    typical_p: ", DECLARED)
    told, _, help_text = answers(tmp_path, ASKED).partition("\n")
    assert "--sparkle X                     How much it sparkles.  [0<=x<=1]" in help_text
    assert json.loads(told) == {
        "config": [0.25, True],
        "check": "sparkle=2: must be between 0 and 1 (0: off)",
        "served": {"sparkle": 0.5},
        "bound": "sparkle=0.75: must be less than or equal to 0.5",
        "openapi": {
            "anyOf": [{"type": "number", "minimum": 0, "maximum": 0.5}, {"type": "null"}],
            "title": "Sparkle",
            "description": "Extension. How much it sparkles.",
        },
        "batch": [{"sparkle": 0.75}, {"glitter": 0.75}],
        "pages": [
            "| `sparkle` | How much it sparkles. | off | – | – | – | – | `--sparkle` |",
            "| `sparkle` | Extension. How much it sparkles. | from 0 to 0.5 | ✓ | ✓ |",
        ],
    }
