"""The server's settings: a TOML file, then the environment, then flags; the last one wins, unknown names are refused.

    configs/cpu.toml        port = 8000            [engine] max_batch = 8
    GENAI_SERVER_PORT=8000                         GENAI_SERVER_ENGINE_MAX_BATCH=8
    genai serve --port 8000                        --set engine.max_batch=8

API keys are no setting: they are read by `server/auth.py`, so that nothing here is a secret.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from genai.config import EngineConfig, Precision, environment
from genai.errors import ConfigError
from genai.options.generation_config import names_of
from server.cluster.options import ClusterSettings

PREFIX = "GENAI_SERVER_"
_TABLES = ("engine", "cluster")
"""Settings that are tables of options."""
_ENGINE = {"max_waiting": 64}
"""Where a server's engine options differ from the library's: its queue is bounded."""

Tree: TypeAlias = dict[str, object]


def _split(value: object) -> object:
    """A list as the environment and flags write it."""
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def _absolute_paths(paths: list[str]) -> list[str]:
    for path in paths:
        if not path.startswith("/"):
            raise ValueError(f"{path!r} must begin with a slash")
    return paths


Strings = Annotated[list[str], BeforeValidator(_split)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Load: TypeAlias = Literal["at_start", "on_demand"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(_Model):
    """One model. engine: `EngineConfig`'s fields, set over those for all models."""

    source: str = Field(min_length=1, description="A known name, a folder, a .gguf file, or a hub id.")
    precision: Precision | None = Field(default=None, description="Its weights' precision, if not that of all models.")
    aliases: Strings = Field(default=[], description="Other names for it; * and ? stand for anything.")
    load: Load | None = Field(default=None, description="When it is loaded, if not when all models are.")
    unload_after: Seconds | None = Field(default=None, description="Seconds without a request, if its own.")
    adapters: dict[str, str] = Field(default={}, description="LoRA adapters: what requests call each, and its path.")
    lora_slots: int | None = Field(
        default=None, ge=1, description="Adapters that may be loaded at once; not given: those, and a few more."
    )
    max_rank: int | None = Field(default=None, ge=1, description="Their largest rank; not given: that of those.")
    engine: dict[str, object] = Field(default={}, description="Engine options of this model alone.")
    cluster: dict[str, object] = Field(default={}, description="Options of this model's replicas alone.")


def _model_table(value: object) -> object:
    """Models given as a list (`NAME=SOURCE`, or `SOURCE` under its own name) as a table by name."""
    value = _split(value)
    if not isinstance(value, list):
        return value
    table: Tree = {}
    for item in value:
        if not isinstance(item, str):
            raise ValueError(f"{item!r} is not the name of a model")
        name, equals, source = item.partition("=")
        name, source = (name, source) if equals else (_name_of(item), item)
        if name in table:
            raise ValueError(f"two models are called {name!r}; give one another name: NAME={source}")
        table[name] = {"source": source}
    return table


def _name_of(source: str) -> str:
    """A file is called by its stem, a folder by its name, anything else as it is written."""
    path = Path(source)
    return path.stem if path.suffix == ".gguf" else path.name if path.is_dir() else source


def _named(models: dict[str, ModelSettings]) -> dict[str, ModelSettings]:
    for name in models:
        if not name or not name.isprintable() or name != name.strip():
            raise ValueError(f"{name!r} cannot be a model's name")
    return models


class Settings(_Model):
    """Everything that can be set; `docs/server.md` says more."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    models: Annotated[dict[str, ModelSettings], BeforeValidator(_model_table), AfterValidator(_named)] = Field(
        default={}, description="The models, by the names that requests give."
    )
    precision: Precision = Field("auto", description="Weights' precision of every model.")
    engine: dict[str, object] = Field(default={}, description="Engine options of every model.")
    cluster: ClusterSettings = Field(ClusterSettings(), description="Replicas of every model (docs/cluster.md).")
    fallback_model: str | None = Field(None, description="The model for names that nothing here has; not given: 404.")
    load: Load = Field("at_start", description="When models are loaded: at_start, or on_demand (by the first request).")
    unload_after: Seconds | None = Field(
        None, description="Seconds without a request after which a model is unloaded; not given: never."
    )
    max_models_bytes: int | None = Field(
        None, ge=1, description="Bytes of the loaded models and their caches; idle ones are unloaded for a new one."
    )
    while_loading: Literal["wait", "refuse"] = Field(
        "wait", description="What a request to a model that is still loading does: wait, or get 503."
    )
    unknown_fields: Literal["ignore", "refuse"] = Field(
        "ignore", description="What becomes of requests' fields that nobody here knows: told in a header, or 400."
    )
    media: Literal["placeholder", "refuse"] = Field(
        "placeholder", description="Images, audio, documents beside text: a line that tells the model, or 400."
    )
    default_max_tokens: int | None = Field(
        None, ge=1, description="Tokens to generate if a request does not say; not given: 16 for completions, else all."
    )
    max_choices: int = Field(32, ge=1, description="Texts that one request may ask for: prompts times n.")
    max_body_bytes: int = Field(32 << 20, ge=1024, description="Longest request body.")
    max_bodies_bytes: int = Field(
        256 << 20, ge=1024, description="Bytes of large bodies that wait for their answers together; then 503."
    )
    kept_responses_bytes: int = Field(
        64 << 20, ge=0, description="Memory for answers of /v1/responses that are kept; 0: none is."
    )
    kept_responses_seconds: Seconds = Field(86400.0, description="Seconds for which such an answer is kept at most.")
    max_connections: int = Field(1024, ge=1, description="Connections at a time; further ones get 503.")
    max_concurrent_per_key: int | None = Field(
        None, ge=1, description="Requests at a time with the same API key; further ones get 429."
    )
    request_timeout: Seconds = Field(600.0, description="Seconds after which a request ends as it is.")
    body_timeout: Seconds = Field(30.0, description="Seconds in which a client has to send a request.")
    send_timeout: Seconds = Field(60.0, description="Seconds for which a client may stop reading a stream.")
    keep_alive_interval: Seconds = Field(15.0, description="Seconds of silence after which a stream gets a comment.")
    drain_timeout: Seconds = Field(30.0, description="Seconds that accepted requests have once the server is to stop.")
    api_keys_file: Path | None = Field(None, description="A file with the API keys, one a line.")
    admin_keys_file: Path | None = Field(
        None, description="A file with the keys of those who may load, unload and pull models, one a line."
    )
    open_paths: Annotated[Strings, AfterValidator(_absolute_paths)] = Field(
        default=["/", "/health", "/ready", "/metrics"], description="Paths that need no key."
    )
    allowed_hosts: Strings = Field(
        default=[], description="Names by which clients may call the server; none: on loopback its own, else any."
    )
    cors_origins: Strings = Field(default=[], description="Origins whose pages may call the server; * for all.")
    log_format: Literal["console", "json"] = Field("console", description="How the log is written.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What is logged.")
    kv_events_endpoint: str | None = Field(
        None, description="Where events of the prefix cache are published (tcp://*:5557); not given: nowhere."
    )
    kv_events_topic: str = Field("kv@{model}", description="The events' topic; {model} is the model's name.")
    otlp_endpoint: str | None = Field(
        None, description="Where OpenTelemetry traces go (OTLP over HTTP); not given: none are made."
    )

    def engine_config(self, model: ModelSettings) -> EngineConfig:
        """How to run a model. Raises: ConfigError."""
        config = _engine_config({**_ENGINE, **self.engine, **model.engine})
        if self.max_models_bytes is not None and None in (config.kv_cache_bytes, config.prefix_cache_bytes):
            message = "max_models_bytes counts caches too: set engine.kv_cache_bytes and engine.prefix_cache_bytes"
            raise ConfigError(f"{message}; without them they are shares of what is free")
        return config

    def replicas_of(self, model: ModelSettings) -> ClusterSettings:
        """How many replicas of a model there are. Raises: ConfigError."""
        if "address" in model.cluster:
            raise ConfigError("cluster.address: all models run on the same Ray; say it of all")
        own = self.cluster.model_dump(exclude_none=True)
        if len({"replicas", "max_replicas"} & model.cluster.keys()) == 1:  # a number of its own, instead of that of all
            own = {name: value for name, value in own.items() if name in ("address", "routing", "spill_requests")}
        try:
            return ClusterSettings.model_validate({**own, **model.cluster})
        except ValidationError as error:
            raise ConfigError(_complaint(error, "cluster")) from None

    @property
    def is_clustered(self) -> bool:
        """Whether there are several replicas, or may be, or they run on a Ray that is there."""
        return self.cluster.address is not None or any(
            self.replicas_of(model).most > 1 for model in self.models.values()
        )

    def with_adapters(self, adapters: Mapping[str, str]) -> Settings:
        """The same with these adapters, too, of the first model. Raises: ConfigError."""
        if not self.models:
            raise ConfigError("adapters need a model to change: name one")
        name, first = next(iter(self.models.items()))
        changed = first.model_copy(update={"adapters": {**first.adapters, **adapters}})
        settings = self.model_copy(update={"models": {**self.models, name: changed}})
        settings.check_names()
        return settings

    def check_names(self) -> None:
        """Raises: ConfigError if a name stands for two models, or the fallback for none."""
        owners = {name: name for name in self.models}
        for name, model in self.models.items():
            for adapter in model.adapters:
                if (owner := owners.setdefault(adapter, f"{name}.adapters")) != f"{name}.adapters":
                    raise ConfigError(f"models.{name}.adapters: {adapter!r} is a name of {owner!r} already")
        for name, model in self.models.items():
            for alias in model.aliases:
                if (owner := owners.setdefault(alias, name)) != name:
                    raise ConfigError(f"models.{name}.aliases: {alias!r} is a name of {owner!r} already")
        if self.fallback_model is not None and self.fallback_model not in self.models:
            known = ", ".join(self.models)
            raise ConfigError(f"fallback_model={self.fallback_model!r}: must be one of the models: {known}")

    @property
    def is_on_loopback(self) -> bool:
        """Whether only this machine reaches the server."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


def load_settings(file: Path | None = None, flags: Mapping[str, object] | None = None) -> Settings:
    """The settings in effect.

    file: None for the one that GENAI_SERVER_CONFIG names, if any; flags: by name, `engine.max_batch` for what lies
    deeper. Raises: ConfigError, with the place that is wrong.
    """
    variables = environment(PREFIX)
    named = variables.pop(f"{PREFIX}CONFIG", None)
    file = file or (Path(named) if named else None)
    layers = [(str(file), read_toml(file))] if file else []
    layers += [(name, _nested({_setting_of(name): value})) for name, value in sorted(variables.items())]
    layers.append(("the command line", _nested(flags or {})))
    merged: Tree = {}
    for origin, layer in layers:
        if unknown := layer.keys() - Settings.model_fields.keys():
            raise ConfigError(f"{origin}: unknown setting {min(unknown)!r}; known: {', '.join(Settings.model_fields)}")
        merged = _merged(merged, layer)
    try:
        settings = Settings.model_validate(merged)
        settings.check_names()
        for model in settings.models.values():
            settings.engine_config(model)
            settings.replicas_of(model)
        _engine_config(settings.engine)
    except ValidationError as error:
        setting = cast(str, error.errors()[0]["loc"][0])
        origin = next((origin for origin, layer in reversed(layers) if setting in layer), "settings")
        raise ConfigError(f"{origin}: {_complaint(error)}") from None
    return settings


def read_toml(file: Path) -> Tree:
    """A file's tables. Raises: ConfigError."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not TOML: {error}") from None


def to_toml(settings: Settings) -> str:
    """The settings as a file that can be given to `--config`, each with what it is for."""
    data = settings.model_dump(mode="json", exclude_none=True, exclude={"engine", "cluster", "models"})
    lines = _described(Settings, data, {"engine", "cluster", "models"})
    lines += ["", "[engine]", *_assignments(_engine_values(_engine_config({**_ENGINE, **settings.engine})))]
    lines += ["", "[cluster]", *_described(ClusterSettings, settings.cluster.model_dump(exclude_none=True))]
    for name, model in settings.models.items():
        key = json.dumps(name, ensure_ascii=False)
        lines += [
            "",
            f"[models.{key}]",
            *_assignments(model.model_dump(exclude_none=True, exclude_defaults=True, exclude={"engine"})),
        ]
        if model.engine:
            own = _engine_values(settings.engine_config(model))
            lines += [f"[models.{key}.engine]", *_assignments({name: own[name] for name in model.engine})]
    return "\n".join(lines) + "\n"


def _described(kind: type[BaseModel], data: Tree, others: Set[str] = frozenset()) -> list[str]:
    """All settings of a kind but some others, each with what it is for; data: those that are given."""
    lines = []
    for name, field in kind.model_fields.items():
        if name not in others:
            value = f"{name} = {_toml(data[name])}" if name in data else f"# {name} ="
            lines += [f"# {field.description}", value]
    return lines


def _engine_values(config: EngineConfig) -> Tree:
    return {name: value for name, value in dataclasses.asdict(config).items() if value is not None}


def _assignments(table: Mapping[str, object]) -> list[str]:
    return [f"{name} = {_toml(value)}" for name, value in table.items()]


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        pairs = (f"{json.dumps(name, ensure_ascii=False)} = {_toml(item)}" for name, item in value.items())
        return f"{{ {', '.join(pairs)} }}"
    return json.dumps(value, ensure_ascii=False)


def _setting_of(variable: str) -> str:
    """The setting that an environment variable names: `engine.max_batch` of GENAI_SERVER_ENGINE_MAX_BATCH."""
    name = variable.removeprefix(PREFIX).lower()
    table = next((table for table in _TABLES if name.startswith(f"{table}_")), None)
    return f"{table}.{name.removeprefix(f'{table}_')}" if table else name


def _nested(flat: Mapping[str, object]) -> Tree:
    """Dotted names as tables."""
    tree: Tree = {}
    for name, value in flat.items():
        table, dot, key = name.partition(".")
        tree = _merged(tree, {table: _nested({key: value})} if dot else {table: value})
    return tree


def _merged(below: Tree, above: Tree) -> Tree:
    """Two layers; options of engine and cluster are merged one by one, everything else is replaced."""
    merged = {**below, **above}
    for table in _TABLES:
        first, second = below.get(table), above.get(table)
        if isinstance(first, dict) and isinstance(second, dict):
            merged[table] = {**first, **second}
    return merged


def _engine_config(options: Mapping[str, object]) -> EngineConfig:
    known = names_of(EngineConfig)
    if unknown := options.keys() - known:
        raise ConfigError(f"unknown engine option {min(unknown)!r}; known: {', '.join(sorted(known))}")
    try:
        return TypeAdapter(EngineConfig).validate_python(dict(options))
    except ValidationError as error:
        raise ConfigError(_complaint(error, "engine")) from None


def _complaint(error: ValidationError, *above: str) -> str:
    """The first thing that is wrong; above: in which tables."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in (*above, *first["loc"]))
    reason = first["msg"].removeprefix("Value error, ")
    return f"{place}={first['input']!r}: {reason[:1].lower()}{reason[1:]}"
