"""`genai generate-file`: answer a file of requests."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genai.cli import options
from genai.cli.bars import bars
from genai.cli.loading import Loading

if TYPE_CHECKING:
    from genai.batch.file import BatchFile, Summary


@options.taking(options.GENERATION, options.SEVERAL, options.CHAT, max_new_tokens=512)
def generate_file(
    source: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="Requests, one JSON object a line.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="Answers; a file that is there is continued.")],
    *,
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="MODEL", help="A known name, a folder, a .gguf file, or a hub id.")
    ],
    generation: options.Keywords,
    draft: options.Draft = None,
    adapters: options.Adapters = None,
    precision: options.PrecisionOption = "auto",
    device: options.DeviceOption = "auto",
    threads: options.Threads = None,
    max_seq_len: options.MaxSeqLen = None,
    max_batch: Annotated[int, typer.Option(min=1, metavar="N", help="Requests that run together.")] = 8,
    same_bits: options.KeepBits = None,
    json_output: options.Json = False,
) -> None:
    """Answer a file of requests in OpenAI's batch format.

    Many run at a time. A batch that was interrupted goes on where it was when the same command is given again. A
    request that cannot be answered gets an answer that says why. Options of generation are for requests that do not
    say. A request whose `model` is an adapter's name is answered with that adapter.
    """
    from genai.batch.file import BatchFile, Settings, Summary

    loading = Loading(
        precision=precision, device=device, threads=threads,
        max_seq_len=max_seq_len, max_batch=max_batch, same_bits=same_bits,
    )  # fmt: skip
    template_options = generation.pop("template_options", {})
    started = time.perf_counter()
    with BatchFile(source, target) as batch:
        if batch.num_done < batch.num_requests:
            with loading.open(model, *adapters or ()) as llm, loading.open_draft(draft) as drafting, bars() as progress:
                settings = Settings(options=generation, template_options=template_options, draft=drafting)
                started = time.perf_counter()
                summary = batch.run(llm, (model, Path(model).name), settings, progress)
        else:
            summary = Summary(skipped=batch.num_done)
        _report(batch, summary, time.perf_counter() - started, json_output=json_output)


def _report(batch: BatchFile, summary: Summary, seconds: float, *, json_output: bool) -> None:
    if json_output:
        print(json.dumps({**dataclasses.asdict(summary), "seconds": seconds}))
        return
    parts = [f"{summary.answered} of {batch.num_requests} requests answered in {seconds:.1f} s"]
    if summary.failed:
        parts.append(f"{summary.failed} of them with an error")
    if summary.skipped:
        parts.append(f"{summary.skipped} were answered before")
    speed = f"{summary.completion_tokens} tokens, {summary.completion_tokens / seconds:.1f} tokens/s"
    print("; ".join([", ".join(parts), speed]), file=sys.stderr)
