"""One server for all clients, what each is told, and an eye on what it asks for."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from genai.llm.llm import LLM
from tests.clients import environments
from tests.clients.documented import PAGE
from tests.clients.written_model import written_model
from tests.server.live import live_server

MODEL, WRITTEN = "smollm2-135m-instruct", "written"
QUESTION = "Name the capital of France."
MAX_TOKENS = 24
SAID, DONE = "I was given no tool that I know.", "It is done."
FILE, LINE = "made.txt", "made by a tool"
TOLD = {"file listing": "hello.py\n```\nprint('goodbye')\n```"}  # as aider asks for
CALLS = {
    "get_weather": {"city": "Paris"},
    "bash": {"command": f"echo {LINE} > {FILE}", "description": "Make a file"},  # opencode's
    "exec_command": {"cmd": f"echo {LINE} > {FILE}"},  # Codex CLI's
}


class Outside:
    """A proxy on loopback that lets nothing out, and tells what was to be reached."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                asked.append(self.rfile.readline(1000).decode(errors="replace").strip())
                self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


GONE = 499
"""What the log says where a client left before its answer was whole: opencode ends without the title that it wanted."""


class Refusals(logging.Handler):
    """The requests that the server did not answer with success, though their clients waited for it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        fields = getattr(record, "fields", {})
        if fields["status"] >= 400 and fields["status"] != GONE:
            self.seen.append(f"{fields['status']} {record.getMessage()}")


class Clients:
    """Runs clients in folders of their own, each told where the server is by the lines of its section of the page."""

    def __init__(self, url: str, home: Path, outside: Outside) -> None:
        self._url, self._home, self._outside = url, home, outside

    def configuration(self, name: str, model: str = MODEL) -> str:
        """The first listing in a client's section, with this server's address and one of its models."""
        listing = re.search(rf"^## {re.escape(name)}\n.*?^```\w+\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
        assert listing, name
        with_address = listing[1].replace("http://127.0.0.1:8000", self._url)
        return with_address.replace(MODEL, model).replace("my-model", model)

    def run(self, name: str, *command: str, folder: Path, **environment: str) -> str:
        """What a program of a client's environment prints."""
        if reason := environments.lack(name):
            pytest.skip(reason)
        place = environments.environment(name)
        programs = place / "node_modules" / ".bin" if environments.needs_node(name) else place / "bin"
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            command,
            cwd=folder,
            env={**self._quiet(), "PATH": path, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def program(self, name: str, folder: Path) -> dict[str, dict[str, object]]:
        """What a client's own program says of its answers, by API and kind."""
        suffix = "mjs" if environments.needs_node(name) else "py"
        (folder / f"setup.{suffix}").write_text(self.configuration(name))
        shutil.copy(environments.FOLDER / name / f"program.{suffix}", folder)
        if environments.needs_node(name):
            (folder / "node_modules").symlink_to(environments.FOLDER / ".envs" / name / "node_modules")
        runner = "node" if environments.needs_node(name) else "python"
        printed = self.run(name, runner, f"program.{suffix}", QUESTION, str(MAX_TOKENS), folder=folder)
        said: dict[str, dict[str, object]] = json.loads(printed.splitlines()[-1])
        return said

    def _quiet(self) -> dict[str, str]:
        """An environment without this one's settings, in which nothing is fetched but from this machine."""
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), self._outside.url)
        return {
            "HOME": str(self._home),
            "LANG": "C.UTF-8",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            **proxies,
        }


@pytest.fixture(scope="package")
def expected(smollm2_auto: Path) -> str:
    """What SmolLM2 answers to the question without a server."""
    with LLM(smollm2_auto) as llm:
        asked = [{"role": "user", "content": QUESTION}]
        return llm.generate(asked, max_new_tokens=MAX_TOKENS, temperature=0).text


@pytest.fixture(scope="package")
def url(smollm2_auto: Path, expected: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """SmolLM2, and a model with room for agents' prompts."""
    package = tmp_path_factory.mktemp("clients") / "written"
    written_model(package, smollm2_auto, calls=CALLS, told=TOLD, text=SAID, afterwards=DONE)
    models = {
        MODEL: {"source": str(smollm2_auto), "engine": {"kv_cache_bytes": 500_000_000}},
        WRITTEN: {"source": str(package), "engine": {"kv_cache_bytes": 100_000_000}},
    }
    with live_server(models, engine={"device": "cpu", "max_batch": 4, "prefix_cache_bytes": 32_000_000}) as server:
        yield server.url


@pytest.fixture(scope="package")
def outside() -> Iterator[Outside]:
    watched = Outside()
    with watched.server as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield watched
        server.shutdown()
        thread.join()


@pytest.fixture
def clients(url: str, outside: Outside, tmp_path: Path) -> Iterator[Clients]:
    """What runs a client; afterwards: nothing was refused, and nothing but this machine was asked."""
    log, refusals = logging.getLogger("server.access"), Refusals()
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(refusals)
    home = tmp_path / "home"
    home.mkdir()
    outside.asked.clear()
    yield Clients(url, home, outside)
    log.removeHandler(refusals)
    log.setLevel(level)
    assert refusals.seen == []
    assert outside.asked == []
