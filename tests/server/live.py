"""The real server, in a thread, over real models."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai

from server.models import ModelPool
from server.process import DrainingServer
from server.settings import Settings


class LiveServer:
    """Where it listens, and clients for it."""

    def __init__(self, server: DrainingServer) -> None:
        self.server = server
        port = server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, timeout=120)
        self.openai = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120)


@contextmanager
def live_server(models: Mapping[str, Path | Mapping[str, object]], **settings: object) -> Iterator[LiveServer]:
    """Serve packages, each a folder or a model's settings, until the end of the block."""
    engine = {"device": "cpu", "max_batch": 4, "kv_cache_bytes": 30_000_000, "prefix_cache_bytes": 1_000_000}
    table = {name: {"source": str(each)} if isinstance(each, Path) else each for name, each in models.items()}
    chosen = Settings.model_validate({"models": table, "port": 0, "engine": engine, **settings})
    pool = ModelPool(chosen)
    server = DrainingServer(chosen, pool)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started or any(model.state == "loading" for model in pool.models):
            assert thread.is_alive(), "the server has ended"
            threading.Event().wait(0.01)
        assert len(pool.ready) == len(models), [model.error for model in pool.models]
        live = LiveServer(server)
        yield live
        live.http.close()
        live.openai.close()
    finally:
        server.should_exit = True
        thread.join()
