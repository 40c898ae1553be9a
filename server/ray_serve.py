"""The server on Ray Serve: the very application of `create_app` in each replica.

    serve run server.ray_serve:app config=settings.toml        RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH in the
    serve deploy deploy/ray.yaml                               environment of `ray start` (docs/cluster.md)
    genai serve MODEL --replicas N                             does both

A replica is there for others once its models are loaded, and healthy while one of them is.
"""

from __future__ import annotations

import asyncio
import logging
import platform
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.config import RequestRouterConfig

from genai.config import KV_CACHE_SHARE, PREFIX_CACHE_SHARE
from genai.errors import ConfigError, GenAIError
from genai.runtime.host import free_host_memory
from server.app import create_app
from server.auth import load_api_keys
from server.cluster.directory import Entry
from server.cluster.plan import APPLICATION, Plan, plans
from server.cluster.registry import read_entries, write_entry
from server.cluster.router import PrefixRouter
from server.cluster.view import QUESTIONS, Together, Told
from server.logs import configure_logging
from server.models import ModelPool
from server.overview import Alone
from server.settings import Settings, load_settings
from server.state import ServerState

_log = logging.getLogger(__name__)

_ASK_SECONDS = 3.0
"""How long other replicas may take to say how they are."""


def app(args: Mapping[str, object]) -> serve.Application:
    """One model's application, as Ray's own tools build it.

    args: `config`, a file with settings; `model`, which of them, the first one if it is not given; anything else is a
    setting, by its name (`engine.num_threads`). Raises: ConfigError.
    """
    flags = dict(args)
    config, model = flags.pop("config", None), flags.pop("model", None)
    made = plans(load_settings(Path(str(config)) if config else None, flags))
    chosen = next((plan for plan in made if model in (None, *plan.settings.models)), None)
    if chosen is None:
        known = ", ".join(name for plan in made for name in plan.settings.models)
        raise ConfigError(f"model={model!r}: must be one of the models: {known}")
    return application(chosen)


def application(plan: Plan) -> serve.Application:
    """What Ray deploys for a plan."""
    router = RequestRouterConfig()  # Ray's own: the less loaded of two
    if plan.cluster.routing == "prefix":
        said = {"request_router_class": PrefixRouter, "request_router_kwargs": {"spill": plan.spill}}
        router = RequestRouterConfig(**said)  # type: ignore[arg-type]
    deployment = serve.deployment(Replica).options(  # type: ignore[attr-defined]
        name=APPLICATION, request_router_config=router, **plan.deployment_options
    )
    bound: serve.Application = deployment.bind(
        plan.settings.model_dump(mode="json"),
        route=plan.route,
        num_threads=plan.num_threads,
        most=plan.most,
        elsewhere=plan.elsewhere,
        has_keys=bool(len(load_api_keys(plan.settings.api_keys_file))),
    )
    return bound


@serve.ingress()
class Replica:
    """One replica. Its settings travel as they are written, and hold no secret.

    route: its application's; num_threads: its processors; most: replicas that there may be; elsewhere: what other
    applications serve; has_keys: whether keys were there when it was deployed: a replica that finds none would be open
    to everybody.
    """

    def __init__(
        self,
        settings: Mapping[str, object],
        *,
        route: str,
        num_threads: int,
        most: int,
        elsewhere: Sequence[str],
        has_keys: bool,
    ) -> None:
        own = Settings.model_validate(settings)
        configure_logging(own.log_format, own.log_level)
        if has_keys and not len(load_api_keys(own.api_keys_file)):
            raise ConfigError("API keys are not here: set GENAI_API_KEYS where Ray is started, on each machine")
        here = _replicas_here(num_threads, most)
        engine = {**_shares(here), **own.engine, "num_threads": num_threads}
        own = own.model_copy(update={"engine": engine})
        self._context = serve.get_replica_context()
        self._entry = Entry.of(self._context.app_name, route, own)
        self._app = create_app(
            own,
            ModelPool(own, elsewhere=elsewhere),
            overview=Together(self._ask),
            mark=f"{self._context.replica_tag}{self._entry.mark}_",
        )
        self._app.router.lifespan_context = _loaded(self._app)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """For Ray, which runs it in this replica's event loop."""
        write_entry(self._entry)
        return self._app

    def check_health(self) -> None:
        """For Ray, now and then: a replica that raises is replaced."""
        if not self._state.models.ready:
            raise GenAIError(
                "; ".join(f"{each.name}: {each.error or each.state}" for each in self._state.models.models)
            )

    async def tell(self, question: str) -> Told:
        """One of `QUESTIONS`, answered for this replica alone."""
        assert question in QUESTIONS, question
        answer = await getattr(Alone(), question)(self._state)
        return Told(replica=self._context.replica_tag, node=platform.node(), answer=answer)

    def drain(self) -> int:
        """Take no new requests from now on; how many are still being answered."""
        self._state.lifecycle.drain()
        return self._state.lifecycle.num_active

    @property
    def _state(self) -> ServerState:
        state: ServerState = self._app.state.server
        return state

    async def _ask(self, question: str) -> Sequence[Told]:
        """Put a question to all replicas of all applications of ours."""
        entries = await asyncio.to_thread(read_entries)
        told = await asyncio.gather(*(_ask_application(entry.app, question) for entry in entries))
        return sorted((each for some in told for each in some), key=lambda each: each.replica)


async def _ask_application(name: str, question: str) -> Sequence[Told]:
    try:
        handle = await asyncio.to_thread(serve.get_app_handle, name)
        answers = handle.broadcast("tell", question).results_async(timeout_s=_ASK_SECONDS, return_exceptions=True)
        return [each for each in await answers if isinstance(each, Told)]
    except Exception as error:  # it has just gone, or Ray cannot say where it is
        _log.warning("the replicas of %s do not say how they are: %s", name, error)
        return []


def _loaded(app: FastAPI):  # type: ignore[no-untyped-def]
    """The application's life, which begins when its models are loaded. Raises: GenAIError if none can be."""
    alone = app.router.lifespan_context

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        async with alone(app):
            pool = app.state.server.models
            await pool.started()
            if not pool.ready:
                raise GenAIError("; ".join(f"{model.name}: {model.error}" for model in pool.models))
            yield

    return life


def _replicas_here(num_threads: int, most: int) -> int:
    """How many replicas there may be on this machine."""
    node = ray.get_runtime_context().get_node_id()
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    processors = next((each["Resources"].get("CPU", 1) for each in nodes if each["NodeID"] == node), 1)
    return max(1, min(most, int(processors) // num_threads))


def _shares(here: int) -> Mapping[str, int]:
    """What a replica takes of this machine's memory if its settings do not say: they load at the same time."""
    free = free_host_memory() // here
    return {"kv_cache_bytes": int(free * KV_CACHE_SHARE), "prefix_cache_bytes": int(free * PREFIX_CACHE_SHARE)}
