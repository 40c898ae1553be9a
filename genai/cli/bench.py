"""`genai bench`: how fast a model runs on this machine."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer

from genai.cli import options
from genai.cli.bars import bars
from genai.cli.table import megabytes, table
from genai.config import EngineConfig
from genai.errors import ConfigError

if TYPE_CHECKING:
    from genai.bench import Report
    from genai.cli.results import JSON


def bench(
    model: options.Model,
    *,
    lengths: Annotated[str, typer.Option(metavar="N,N,…", help="Context lengths, in tokens.")] = "64,256,1024",
    batches: Annotated[str, typer.Option(metavar="N,N,…", help="Batch sizes.")] = "1,4,8",
    new_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Decode steps to time in each round.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, metavar="N", help="Rounds over everything.")] = 3,
    precision: options.PrecisionOption = "auto",
    device: options.DeviceOption = "auto",
    adapter: options.Adapter = None,
    threads: options.Threads = None,
    max_seq_len: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The cache's limit. [default: as long as needed]")
    ] = None,
    same_bits: options.KeepBits = None,
    json_output: options.Json = False,
) -> None:
    """Measure prefill and decoding on this machine.

    Over prompt lengths, and over context lengths and batch sizes: medians over interleaved rounds. "outside" is the
    share of a decode step spent outside the graph run. An adapter is in use by all rows.
    """
    from genai import models
    from genai.bench import Plan, measure
    from genai.runtime.providers import choose_device

    plan = Plan(
        lengths=_numbers("--lengths", lengths),
        batches=_numbers("--batches", batches),
        new_tokens=new_tokens,
        repeats=repeats,
    )
    config = EngineConfig(device=device, num_threads=threads, max_seq_len=max_seq_len, same_bits=same_bits is not False)
    chosen = None if adapter is None else options.adapter_of(adapter)
    room = None if chosen is None else models.room_for([chosen[1]], None, None)
    with bars() as progress:
        path = models.package(model, precision=precision, device=choose_device(device), room=room, progress=progress)
        report = measure(path, plan, config, adapter=chosen, progress=progress)
    if json_output:
        print(json.dumps(_as_json(model, report), indent=2))
    else:
        print("\n\n".join((_head(model, report), _prefill(report), _decode(report))))


def _numbers(name: str, text: str) -> tuple[int, ...]:
    """Numbers between commas, each once, in the order given."""
    try:
        numbers = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise ConfigError(f"{name} {text!r}: must be whole numbers between commas, like 64,256") from None
    if min(numbers) < 1:
        raise ConfigError(f"{name} {text!r}: every number must be at least 1")
    return numbers


def _head(model: str, report: Report) -> str:
    machine = report.machine
    adapter = "" if report.adapter is None else f" with {report.adapter}"
    return (
        f"{model}{adapter}, precision {report.precision}, on {machine['device']}\n"
        f"{machine['cpu']}, {machine['threads']} threads\n"
        f"loaded in {report.load_seconds:.2f} s; peak memory {megabytes(report.peak_memory)}"
    )


def _prefill(report: Report) -> str:
    rows = [(str(each.length), f"{each.seconds * 1e3:.0f}", f"{each.tokens_per_second:.0f}") for each in report.prefill]
    return table(("PREFILL: PROMPT", "MS", "TOKENS/S"), rows, numbers=True)


def _decode(report: Report) -> str:
    rows = [
        (
            str(each.length),
            str(each.batch),
            f"{each.seconds * 1e3:.2f}",
            f"{each.tokens_per_second:.1f}",
            f"{each.outside_share:.1%}",
        )
        for each in report.decode
    ]
    return table(("DECODE: CONTEXT", "BATCH", "MS/STEP", "TOKENS/S", "OUTSIDE"), rows, numbers=True)


def _as_json(model: str, report: Report) -> dict[str, JSON]:
    return {
        "model": model,
        "adapter": report.adapter,
        "precision": report.precision,
        "machine": {**report.machine},
        "plan": dataclasses.asdict(report.plan),
        "load_seconds": report.load_seconds,
        "peak_memory_bytes": report.peak_memory,
        "prefill": [
            {**dataclasses.asdict(each), "tokens_per_second": each.tokens_per_second} for each in report.prefill
        ],
        "decode": [{**dataclasses.asdict(each), "tokens_per_second": each.tokens_per_second} for each in report.decode],
    }
