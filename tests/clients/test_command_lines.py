"""Agents and tools that are used at the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clients.conftest import CALLS, DONE, FILE, LINE, MAX_TOKENS, MODEL, QUESTION, WRITTEN, Clients
from tests.clients.documented import assert_documented

pytestmark = pytest.mark.slow

TASK = "Make a file."
BRIEF = "You are a helpful assistant."


def events(printed: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]


def test_codex(clients: Clients, tmp_path: Path) -> None:
    """Its own prompt has nine thousand tokens; the tool that the model calls is its shell."""
    offline = ["check_for_update_on_startup=false", "analytics.enabled=false", "features.plugins=false"]

    def items(model: str, task: str, *settings: str) -> list[dict[str, object]]:
        (tmp_path / "config.toml").write_text(clients.configuration("codex", model))
        chosen = [word for setting in (*offline, *settings) for word in ("-c", setting)]
        command = ["codex", "exec", *chosen, "--json", "--skip-git-repo-check"]
        command += ["--dangerously-bypass-approvals-and-sandbox", task]
        printed = clients.run("codex", *command, folder=tmp_path, CODEX_HOME=str(tmp_path))
        return [event["item"] for event in events(printed) if event["type"] == "item.completed"]

    def said(items: list[dict[str, object]]) -> list[str]:
        return [item["text"].strip() for item in items if item["type"] == "agent_message"]

    (tmp_path / "brief.md").write_text(BRIEF)
    brief = [f"model_instructions_file={tmp_path / 'brief.md'}", "features.multi_agent=false", "features.goals=false"]
    (answer,) = said(items(MODEL, QUESTION, *brief))
    assert answer
    done = items(WRITTEN, TASK)
    (ran,) = [item for item in done if item["type"] == "command_execution"]
    assert (ran["exit_code"], (tmp_path / FILE).read_text()) == (0, f"{LINE}\n")
    assert said(done) == ["I use exec_command.", DONE]
    assert_documented("codex", {"Responses": ["short turn", "turn", "tool"]})


def test_opencode(clients: Clients, tmp_path: Path) -> None:
    """Its own prompt has seven thousand tokens."""
    switches = ("MODELS_FETCH", "AUTOUPDATE", "LSP_DOWNLOAD", "DEFAULT_PLUGINS", "SHARE")
    quiet = {"npm_config_offline": "true", **{f"OPENCODE_DISABLE_{name}": "1" for name in switches}}

    def parts(model: str, *arguments: str) -> list[dict[str, object]]:
        settings = json.loads(clients.configuration("opencode", model))
        settings["agent"] = {"brief": {"mode": "primary", "prompt": BRIEF, "tools": {"*": False}}}
        (tmp_path / "opencode.json").write_text(json.dumps(settings))
        command = ["opencode", "run", "--format", "json", *arguments]
        return [event["part"] for event in events(clients.run("opencode", *command, folder=tmp_path, **quiet))]

    def said(parts: list[dict[str, object]]) -> list[str]:
        return [part["text"].strip() for part in parts if part["type"] == "text"]

    (answer,) = said(parts(MODEL, "--agent", "brief", QUESTION))
    assert answer
    done = parts(WRITTEN, TASK)
    (ran,) = [part for part in done if part["type"] == "tool"]
    assert (ran["tool"], ran["state"]["status"]) == ("bash", "completed")
    assert (tmp_path / FILE).read_text() == f"{LINE}\n"
    assert said(done) == ["I use bash.", DONE]
    assert_documented("opencode", {"Chat": ["short turn", "turn", "tool"]})


def test_llm(clients: Clients, expected: str, tmp_path: Path) -> None:
    models = clients.configuration("llm"), clients.configuration("llm", WRITTEN).replace("smollm2", WRITTEN)
    (tmp_path / "extra-openai-models.yaml").write_text("".join(models))

    def llm(*arguments: str) -> str:
        where = {"LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none"}
        return clients.run("llm", "llm", *arguments, folder=tmp_path, **where)

    greedy = ["-m", "smollm2", "-o", "temperature", "0", "-o", "max_tokens"]
    whole = llm(*greedy, str(MAX_TOKENS), "--no-stream", QUESTION)
    streamed = llm(*greedy, str(MAX_TOKENS), QUESTION)
    typed = llm(*greedy, "120", "--schema", "city str, is_capital bool", "Is Paris a capital? Answer in JSON.")
    function = "def get_weather(city: str) -> str:\n    open('called', 'w').write(city)\n    return 'sunny'"
    called = llm("-m", WRITTEN, "--functions", function, "What is the weather in Paris?")
    assert (whole, streamed, called) == (f"{expected}\n", f"{expected}\n", f"I use get_weather.\n{DONE}\n")
    assert {key: type(value) for key, value in json.loads(typed).items()} == {"city": str, "is_capital": bool}
    assert (tmp_path / "called").read_text() == CALLS["get_weather"]["city"]
    assert_documented("llm", {"Chat": ["plain", "stream", "tool", "object"]})


def test_aider(clients: Clients, tmp_path: Path) -> None:
    """SmolLM2 is asked; the edit comes from the written model, in the form that aider's prompt demands."""
    switches = ("git", "check-update", "analytics", "show-release-notes", "detect-urls", "pretty", "fancy-input")
    catalogue = tmp_path / "home" / ".aider" / "caches" / "model_prices_and_context_window.json"
    catalogue.parent.mkdir(parents=True)
    catalogue.write_text(json.dumps({"none": {}}))  # else it fetches one

    def aider(model: str, *arguments: str) -> str:
        (tmp_path / ".aider.conf.yml").write_text(clients.configuration("aider", model))
        quiet = [f"--no-{name}" for name in switches]
        command = ["aider", *quiet, "--disable-playwright", "--yes-always", "--map-tokens", "0", *arguments]
        return clients.run("aider", *command, folder=tmp_path)

    assert f"Model: openai/{MODEL}" in (asked := aider(MODEL, "--chat-mode", "ask", "--message", QUESTION))
    assert "Tokens: " in asked
    (tmp_path / "hello.py").write_text("print('hello')\n")
    aider(WRITTEN, "--edit-format", "whole", "--message", "Say goodbye instead.", "hello.py")
    assert (tmp_path / "hello.py").read_text() == "print('goodbye')\n"
    assert_documented("aider", {"Chat": ["turn", "edit"]})
