"""Fields of requests are described once, for the server and for batch files."""

from __future__ import annotations

import json
from pathlib import Path

from tests.source_copy import answers, changed_copy

DECLARED = """\
    mood: Literal["calm"] | None = Field(None, description="Changes nothing.")
"""
ASKED = """
import json
from genai.batch.request import request_of
from genai.errors import ConfigError
from server.app import create_app
from server.models import ModelPool
from server.settings import Settings

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}

def line(url, **body):
    try:
        data = {"custom_id": "a", "method": "POST", "url": url, "body": body}
        return dict(request_of(data, ("m",)).options)
    except ConfigError as error:
        return str(error)

settings = Settings(models={"fake": {"source": "nowhere"}})
schemas = create_app(settings, ModelPool(settings)).openapi()["components"]["schemas"]
print(json.dumps({
    "server": [schemas[name]["properties"]["mood"]["description"] for name in ("ChatRequest", "CompletionRequest")],
    "batch": [line("/v1/chat/completions", mood="calm", **CHAT), line("/v1/completions", mood="calm", prompt="Hi")],
    "refused": line("/v1/completions", mood="wild", prompt="Hi"),
}))
"""


def test_a_field_is_declared_once(tmp_path: Path) -> None:
    """A copy of the code with one more field, and nothing else changed."""
    changed_copy(tmp_path, "genai/requests/generation.py", "    modalities: ", DECLARED)
    assert json.loads(answers(tmp_path, ASKED)) == {
        "server": ["Changes nothing."] * 2,
        "batch": [{}, {}],
        "refused": "mood=\"wild\": must be 'calm'",
    }
