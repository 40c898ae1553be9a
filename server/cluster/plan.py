"""From settings to what Ray is asked for: applications, replicas, processors, limits; and what cannot be had there.

One application for each model, so that each has its own replicas: the first one at the root, others under their names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from genai.errors import ConfigError
from server.auth import ADMIN_KEYS_VARIABLE, load_api_keys
from server.cluster.directory import route_of
from server.cluster.options import ClusterSettings
from server.settings import ModelSettings, Settings

APPLICATION = "genai"
"""The name of the first model's application; those of others have their models' names behind it."""
GRACE_SECONDS = 10.0
"""How much longer than a replica Ray waits, for what ends by the replica's own limits."""
ASKING = 16
"""Requests that a replica takes beside those for its models, for who asks how it is."""

_CANNOT = {
    "load": ("at_start", "a replica is ready when its models are loaded"),
    "unload_after": (None, "a replica keeps its models; their number follows the load by max_replicas"),
    "max_models_bytes": (None, "a replica keeps its models"),
    "kv_events_endpoint": (None, "all replicas of a machine would listen there, and Ray routes by itself"),
    "admin_keys_file": (None, "models and adapters would come and go in one replica alone"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One application. settings: what its replicas serve; num_threads: processors of each replica.

    most: replicas that there may be, those of all applications; elsewhere: the models that other applications serve.
    """

    name: str
    route: str
    settings: Settings
    cluster: ClusterSettings
    num_threads: int
    most: int
    elsewhere: tuple[str, ...] = ()

    @property
    def deployment_options(self) -> dict[str, object]:
        """As `serve.deployment` takes them, but for the router's class."""
        rows, waiting = self._limits()
        return {
            **self._number(rows),
            "max_ongoing_requests": rows + waiting + ASKING,
            "max_queued_requests": rows + waiting + ASKING,
            "graceful_shutdown_timeout_s": self.settings.drain_timeout + GRACE_SECONDS,
            "graceful_shutdown_wait_loop_s": 0.5,
            "max_constructor_retry_count": 2,
            "ray_actor_options": {"num_cpus": self.num_threads, **({"num_gpus": 1} if self.is_on_gpu else {})},
            "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
        }

    @property
    def is_on_gpu(self) -> bool:
        """Whether each replica gets a device of its own."""
        return any(self.settings.engine_config(model).device == "cuda" for model in self.settings.models.values())

    @property
    def spill(self) -> int:
        """Requests on its replica from which a conversation goes to its second choice."""
        return self.cluster.spill_requests or self._limits()[0]

    def _limits(self) -> tuple[int, int]:
        """(rows of all its models, requests that may wait for one)."""
        engines = [self.settings.engine_config(model) for model in self.settings.models.values()]
        rows = sum(engine.max_batch for engine in engines)
        return rows, sum(rows if engine.max_waiting is None else engine.max_waiting for engine in engines)

    def _number(self, rows: int) -> dict[str, object]:
        cluster = self.cluster
        if cluster.max_replicas is None:
            return {"num_replicas": cluster.fewest}
        return {
            "autoscaling_config": {
                "min_replicas": cluster.fewest,
                "max_replicas": cluster.max_replicas,
                "target_ongoing_requests": cluster.target_requests or float(rows),
                "upscale_delay_s": cluster.scale_up_after or 30.0,
                "downscale_delay_s": cluster.scale_down_after or 600.0,
            }
        }


def plans(settings: Settings, processors: int | None = None) -> list[Plan]:
    """One for each model. processors: those of this machine, if all replicas are to be on it.

    Raises: ConfigError for what replicas cannot have, with the reason.
    """
    check(settings)
    numbers = {name: settings.replicas_of(model) for name, model in settings.models.items()}
    most = sum(number.most for number in numbers.values())
    made = []
    for number, (name, model) in enumerate(settings.models.items()):
        own = settings.model_copy(
            update={
                "models": {name: _from_anywhere(model)},
                "fallback_model": _fallback(settings, name),
                "api_keys_file": settings.api_keys_file and settings.api_keys_file.absolute(),
            }
        )
        made.append(
            Plan(
                name=APPLICATION if number == 0 else f"{APPLICATION}-{name}",
                route=route_of(name, number),
                settings=own,
                cluster=numbers[name],
                num_threads=_threads(settings, model, most, processors),
                most=most,
                elsewhere=tuple(other for other in settings.models if other != name),
            )
        )
    wanted = sum(plan.num_threads * plan.cluster.most for plan in made)
    if processors is not None and wanted > processors:
        raise ConfigError(
            f"{most} replicas take {wanted} processors ({wanted // most} each: engine.num_threads), and here are "
            f"{processors}; ask for fewer replicas or threads, or give the address of a Ray that has more (--ray)"
        )
    return made


def check(settings: Settings) -> None:
    """Raises: ConfigError for settings that make no sense for several replicas."""
    if not settings.models:
        raise ConfigError("no model to serve: name one after `genai serve`, or in the settings under [models]")
    for name, (usual, reason) in _CANNOT.items():
        owners = [(name, settings), *((f"models.{key}.{name}", model) for key, model in settings.models.items())]
        for told, owner in owners:
            given = getattr(owner, name, None)
            if given not in (None, usual):
                raise ConfigError(f"{told}={given!r} cannot be had with replicas: {reason}")
    if len(load_api_keys(None, ADMIN_KEYS_VARIABLE)):
        raise ConfigError(f"{ADMIN_KEYS_VARIABLE} cannot be had with replicas: {_CANNOT['admin_keys_file'][1]}")
    if settings.port == 0:
        raise ConfigError("port=0 cannot be had with replicas: the proxies of all machines listen on the same port")


def _from_anywhere(model: ModelSettings) -> ModelSettings:
    """A model whose paths are those of this machine's folder, wherever a replica runs."""
    adapters = {name: _absolute(path) for name, path in model.adapters.items()}
    return model.model_copy(update={"source": _absolute(model.source), "adapters": adapters})


def _absolute(source: str) -> str:
    """A folder or file from wherever a replica runs; names are what they are."""
    path = Path(source)
    return str(path.absolute()) if path.exists() else source


def _fallback(settings: Settings, name: str) -> str | None:
    return name if settings.fallback_model == name else None


def _threads(settings: Settings, model: ModelSettings, most: int, processors: int | None) -> int:
    given = settings.engine_config(model).num_threads
    if given is not None:
        return given
    if processors is None:
        raise ConfigError("engine.num_threads is to be given for a Ray that is there: processors of each replica")
    return max(1, processors // most)
