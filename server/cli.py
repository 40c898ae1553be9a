"""`genai serve`: the command line's way to the settings. Everything heavy is imported once they are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from genai.cli import options
from genai.cli.bars import bars
from genai.config import Device, Precision
from genai.errors import ConfigError
from genai.extras import require


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Models to serve, as `genai run` takes them; NAME=MODEL serves one under another name.",
        ),
    ] = None,
    *,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="A TOML file with settings.")
    ] = None,
    host: Annotated[str | None, typer.Option(metavar="HOST", help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, metavar="N", help="Port to listen on. [default: 8000]")
    ] = None,
    api_keys_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keys that clients must give, one a line.")
    ] = None,
    precision: Annotated[
        Precision | None, typer.Option("--precision", "-p", help="Weights' precision, of every model.")
    ] = None,
    device: Annotated[Device | None, typer.Option(help="Where to run.")] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="A LoRA adapter of the first model; may be given several times."),
    ] = None,
    threads: options.Threads = None,
    max_seq_len: options.MaxSeqLen = None,
    max_batch: Annotated[int | None, typer.Option(min=1, metavar="N", help="Requests that run together.")] = None,
    same_bits: options.KeepBits = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Replicas of each model, on Ray Serve (docs/cluster.md).")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="The Ray to run on (auto: the one here); left out: its own."),
    ] = None,
    log_format: Annotated[Literal["console", "json"] | None, typer.Option(help="How the log is written.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other setting (docs/server.md).")
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the settings in effect, without secrets, and leave.")
    ] = False,
) -> None:
    """Serve models over HTTP, as OpenAI's API does.

    Settings come from --config, then the environment (GENAI_SERVER_PORT…), then these options; the last one wins.
    API keys come from --api-keys-file and the environment variable GENAI_API_KEYS (separated by commas).
    """
    flags = options.given(
        models=models or None,
        host=host,
        port=port,
        api_keys_file=api_keys_file,
        precision=precision,
        log_format=log_format,
    )
    engine = options.given(
        device=device, num_threads=threads, max_seq_len=max_seq_len, max_batch=max_batch, same_bits=same_bits
    )
    flags |= {f"engine.{name}": value for name, value in engine.items()}
    flags |= {f"cluster.{name}": value for name, value in options.given(replicas=replicas, address=ray).items()}
    require("server", "serving")
    from server.settings import load_settings, to_toml

    settings = load_settings(config, {**_settings(setting or []), **flags})
    if adapter:
        settings = settings.with_adapters(options.adapters_of(adapter))
    if print_config:
        typer.echo(to_toml(settings), nl=False)
        return
    if settings.is_clustered:
        require("ray", "serving by replicas")
        from server.cluster.running import run as run_replicas

        with bars() as progress:
            run_replicas(settings, progress)
        return
    from server.process import run

    run(settings)


def _settings(pairs: list[str]) -> dict[str, object]:
    """`--set` options by name."""
    given: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {pair!r}: must be NAME=VALUE")
        given[name] = value
    return given
