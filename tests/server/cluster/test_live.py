"""Two replicas of a tiny model on a real Ray: one cluster for all tests here, which run in their order."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from genai.config import environment
from tests.tiny_package import tiny_package

ROOT = Path(__file__).parents[3]
KEY = "a-key"
HEADERS = {"authorization": f"Bearer {KEY}"}
START_SECONDS = 240
PATIENCE = 90
"""Seconds for what takes two on a machine with nothing else to do."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(START_SECONDS + PATIENCE)]


def until(holds: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.1)


class Cluster:
    """The server, how it came up, and clients for it."""

    def __init__(self, settings: dict[str, object], port: int, output: Path) -> None:
        self.settings = settings
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, headers=HEADERS)
        self.output = output
        with output.open("wb") as log:
            self.process = self._begin(settings, log)
        self.started: list[psutil.Process] = []
        self.before_ready: list[int] = []

    def _begin(self, settings: dict[str, object], log: IO[bytes]) -> subprocess.Popen[str]:
        # A parser that jsonschema would have is built in each of Ray's ten processes, for a second of each.
        lighter = Path(__file__).parent / "lighter"
        return subprocess.Popen(
            [sys.executable, "-m", "tests.server.cluster.driver", json.dumps(settings)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**environment(""), "GENAI_API_KEYS": KEY, "PYTHONPATH": os.pathsep.join([str(lighter), str(ROOT)])},
        )

    def wait(self) -> None:
        """Until it is ready; what `/ready` said before is kept."""

        def is_ready() -> bool:
            assert self.process.poll() is None, self.output.read_text()[-3000:]
            try:
                self.before_ready.append(self.http.get("/ready").status_code)
            except httpx.TransportError:
                return False
            return self.before_ready[-1] == 200

        until(is_ready, START_SECONDS)
        self.until_replicas(2)
        self.started = psutil.Process(self.process.pid).children(recursive=True)

    def status(self) -> dict[str, object]:
        status: dict[str, object] = self.http.get("/v1/status").json()
        return status

    @property
    def replicas(self) -> dict[str, dict[str, object]]:
        return {each["id"]: each for each in self.status()["replicas"]}  # type: ignore[attr-defined]

    def until_replicas(self, count: int) -> None:
        until(lambda: len(self.replicas) == count, START_SECONDS)

    def deploy(self, **changes: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({**self.settings, **changes}) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "deployed\n"

    def counted(self, name: str, **labels: str) -> Counter[str]:
        """A metric's samples by replica."""
        found: Counter[str] = Counter()
        for family in text_string_to_metric_families(self.http.get("/metrics").text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    found[sample.labels["replica"]] += int(sample.value)
        return found

    def end(self) -> int:
        """As Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(PATIENCE)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            for each in psutil.wait_procs(self.started, timeout=10)[1]:
                each.kill()
            self.http.close()
            for pipe in (self.process.stdin, self.process.stdout):
                assert pipe is not None
                pipe.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings: dict[str, object] = {
        "models": [str(tiny_package(folder / "tiny", max_position=1 << 16))],
        "port": port,
        "engine": {"num_threads": 1, "max_batch": 4, "kv_cache_bytes": 60_000_000, "prefix_cache_bytes": 2_000_000},
        "cluster": {"replicas": 2},
    }
    cluster = Cluster(settings, port, folder / "log")
    try:
        cluster.wait()
        yield cluster
    finally:
        cluster.end()


def body(text: str, max_tokens: int = 4, **more: object) -> dict[str, object]:
    message = {"role": "user", "content": text}
    return {"model": "tiny", "messages": [message], "max_tokens": max_tokens, "ignore_eos": True, **more}


class Told(threading.Thread):
    """A stream that is read in a thread of its own, to its end."""

    def __init__(self, cluster: Cluster, session: str, max_tokens: int) -> None:
        super().__init__()
        self.cluster = cluster
        self.session = session
        self.max_tokens = max_tokens
        self.events: list[str] = []
        self.start()
        until(lambda: len(self.events) > 2)

    def run(self) -> None:
        headers = {"x-session-id": self.session}
        request = body("go on", self.max_tokens, stream=True)
        with self.cluster.http.stream("POST", "/v1/chat/completions", json=request, headers=headers) as response:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    self.events.append(line.removeprefix("data: "))

    @property
    def has_ended_well(self) -> bool:
        return self.events[-1] == "[DONE]"

    @property
    def error_code(self) -> str | None:
        error = {} if self.has_ended_well else json.loads(self.events[-1]).get("error", {})
        return error.get("code") if error else None


def stream_on_each(cluster: Cluster, max_tokens: int) -> Sequence[Told]:
    """A stream on either replica."""
    streams: dict[str, Told] = {}
    for number in range(64):
        before = {name: each["running"] for name, each in cluster.replicas.items()}
        stream = Told(cluster, f"stream {time.monotonic()} {number}", max_tokens)
        now = {name: each["running"] for name, each in cluster.replicas.items()}
        grown = [name for name in now if now[name] > before[name]]  # type: ignore[operator]
        if grown:
            streams.setdefault(grown[0], stream)
        if len(streams) == 2:
            return list(streams.values())
    raise AssertionError("all sessions belong to one replica")


def test_it_is_ready_once_models_are_loaded(cluster: Cluster) -> None:
    assert set(cluster.before_ready[:-1]) <= {404, 503}, "before Ray knows it; while it loads"
    assert cluster.http.get("/ready").json() == {"status": "ready", "models": {"tiny": "ready"}}
    assert cluster.http.get("/health").json() == {"status": "ok"}
    assert {each["status"] for each in cluster.replicas.values()} == {"ready"}


def test_keys_and_limits_are_as_without_it(cluster: Cluster) -> None:
    refused = cluster.http.post("/v1/chat/completions", json=body("x"), headers={"authorization": "Bearer wrong"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    json_type = {"content-type": "application/json"}
    long = cluster.http.post("/v1/chat/completions", content=b"[" + b"1," * 1_300_000 + b"1]", headers=json_type)
    assert (long.status_code, long.json()["error"]["code"]) == (413, "body_too_long")


def test_what_ray_would_obey_is_dropped(cluster: Cluster) -> None:
    headers = {"x-request-timeout-seconds": "0.001", "x-request-disconnect-disabled": "?1", "x-request-id": "mine"}
    answer = cluster.http.post("/v1/chat/completions", json=body("x", 400), headers=headers)
    assert answer.json()["usage"]["completion_tokens"] == 400
    assert answer.headers.get_list("x-request-id") == ["mine"]


def test_events_arrive_while_others_are_made(cluster: Cluster) -> None:
    stream = Told(cluster, "events", 3000)
    assert sum(int(str(each["running"])) for each in cluster.replicas.values()) == 1, "it runs, and has been read from"
    stream.join()
    assert stream.has_ended_well
    assert len(stream.events) > 1000


def test_a_client_that_leaves_frees_its_row(cluster: Cluster) -> None:
    before = cluster.counted("genai_requests_total", finish_reason="cancelled").total()
    with cluster.http.stream("POST", "/v1/chat/completions", json=body("x", 60_000, stream=True)) as response:
        next(response.iter_lines())
    until(lambda: cluster.status()["running"] == 0)
    assert cluster.counted("genai_requests_total", finish_reason="cancelled").total() == before + 1


def test_a_conversation_stays_at_its_replica(cluster: Cluster) -> None:
    for number in range(6):
        messages = [{"role": "system", "content": "s" * 40}, {"role": "user", "content": f"{number} asks {'q' * 40}"}]
        for turn in range(3):
            answer = cluster.http.post("/v1/chat/completions", json=body("") | {"messages": messages}).json()
            cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            assert not turn or cached >= 80, "the conversation so far is known there"
            messages += [answer["choices"][0]["message"], {"role": "user", "content": "and then?"}]


def test_kept_answers_are_found_where_they_are(cluster: Cluster) -> None:
    for number in range(4):
        request: dict[str, object] = {"model": "tiny", "input": f"{number}", "max_output_tokens": 3}
        first = cluster.http.post("/v1/responses", json=request).json()
        assert cluster.http.get(f"/v1/responses/{first['id']}").status_code == 200
        behind = {**request, "previous_response_id": first["id"]}
        assert cluster.http.post("/v1/responses", json=behind).status_code == 200
        assert cluster.http.delete(f"/v1/responses/{first['id']}").json()["deleted"] is True


def test_one_page_of_metrics_tells_of_both(cluster: Cluster) -> None:
    assert cluster.counted("genai_generated_tokens_total", model="tiny").keys() == cluster.replicas.keys()


def test_streams_survive_scaling_and_redeploying(cluster: Cluster) -> None:
    streams = stream_on_each(cluster, 6000)
    cluster.deploy(cluster={"replicas": 1})
    cluster.until_replicas(1)
    for stream in streams:
        stream.join()
    assert all(stream.has_ended_well for stream in streams), "scaled down"
    stream, before = Told(cluster, "redeployed", 6000), set(cluster.replicas)
    cluster.deploy(max_choices=7)
    until(lambda: len(cluster.replicas) == 2 and not before & set(cluster.replicas), START_SECONDS)
    stream.join()
    assert stream.has_ended_well, "redeployed"
    assert cluster.http.post("/v1/completions", json={"model": "tiny", "prompt": "x", "n": 8}).status_code == 400


def test_a_lost_replica_costs_its_own_streams_alone(cluster: Cluster) -> None:
    streams = stream_on_each(cluster, 8000)
    replicas = [each for each in psutil.Process(cluster.process.pid).children(recursive=True) if is_replica(each)]
    replicas[0].kill()
    for stream in streams:
        stream.join()
    assert sorted(stream.error_code or "" for stream in streams) == ["", "replica_lost"]
    for number in range(8):
        assert cluster.http.post("/v1/chat/completions", json=body(f"{number}")).status_code == 200


def is_replica(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[:1] != [] and process.cmdline()[0].startswith("ray::ServeReplica")
    except psutil.NoSuchProcess:
        return False


def test_a_signal_lets_streams_end_and_leaves_nothing_behind(cluster: Cluster) -> None:
    stream = Told(cluster, "last", 4000)
    cluster.started = psutil.Process(cluster.process.pid).children(recursive=True)
    assert cluster.end() == 0, cluster.output.read_text()[-3000:]
    stream.join()
    assert stream.has_ended_well
    assert [each for each in cluster.started if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []
