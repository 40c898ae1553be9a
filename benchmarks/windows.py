"""What layers with a window gain where they keep no more than that: steps beside those over whole caches.

    python -m benchmarks.windows [MODEL] [--precision auto] [--rounds 9]

The package as it is built, beside a copy all of whose layers keep whole texts. Rows are taken for written, which costs
no prefill of thousands of tokens: attention over zeros takes as long as over any keys. Keys move in no step that is
measured: that takes one copy of the windows in 128 tokens or more.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import onnx

from benchmarks.results import Cell
from benchmarks.rounds import Action, quiet_rounds
from benchmarks.two_ways import run
from genai import contract
from genai.bench import WARM_UP
from genai.config import MODEL_FILE, EngineConfig, ModelConfig
from genai.runtime.load import load_runner
from genai.runtime.runner import Runner

SHAPES = ((1, 1024, 1), (1, 4096, 1), (1, 16000, 1), (8, 1024, 1), (8, 4096, 1), (1, 4096, 256))
"""Rows, tokens that each holds, and new ones of a step."""
STEPS_A_ROUND = 4
BUILT, OTHER = "windows", "whole caches"


def with_whole_caches(package: Path, copy: Path) -> Path:
    """A copy of a package all of whose layers keep whole texts. Raises: ValueError if they do."""
    config = ModelConfig.read(package)
    if config.kept_window is None:
        raise ValueError(f"{package} has no layers that keep their windows alone")
    shutil.copytree(package, copy)
    model = onnx.load(copy / MODEL_FILE, load_external_data=False)
    for tensor in (*model.graph.input, *model.graph.output):
        for dim in tensor.type.tensor_type.shape.dim:
            if dim.dim_param == contract.WINDOW_CAPACITY:
                dim.dim_param = contract.CAPACITY
    others = {
        contract.WINDOW_WRITE_INDICES: contract.WRITE_INDICES,
        contract.WINDOW_KV_SEQLEN: contract.NONPAD_KV_SEQLEN,
    }
    for tensor in [tensor for tensor in model.graph.input if tensor.name in others]:
        model.graph.input.remove(tensor)
    for graph in graphs(model.graph):
        for node in graph.node:
            node.input[:] = [others.get(name, name) for name in node.input]
    onnx.save(model, copy / MODEL_FILE)
    replace(config, kept_window=None).write(copy)
    return copy


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those inside it."""
    yield graph
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield from graphs(attribute.g)


def compared(packages: dict[str, Path], rounds: int, threads: int | None) -> list[Cell]:
    """Seconds of steps at all shapes, interleaved."""
    limit, cells = max(length + new for _, length, new in SHAPES) + 64, []
    config = EngineConfig(device="cpu", max_seq_len=limit, max_batch=8, num_threads=threads, prefix_cache_bytes=0)
    runners = {name: load_runner(path, ModelConfig.read(path), config).runner for name, path in packages.items()}
    for batch, length, new in SHAPES:
        actions = {
            name: Action(run=partial(steps_of, runner, batch, length, new), process_id=os.getpid())
            for name, runner in runners.items()
        }
        found = quiet_rounds(actions, rounds, patience=2, pause=0.05)
        title = f"{new} new token{'s' * (new > 1)} of {batch} row{'s' * (batch > 1)} of {length} tokens"
        cells.append(Cell(title=title, work=1, rounds=found.results, disturbance=found.disturbance))
    return cells


def steps_of(runner: Runner, batch: int, length: int, new: int) -> list[float]:
    """Seconds of steps of rows that hold so many tokens."""
    cache, seconds = runner.cache, []
    rows = [cache.allocate(length + new) for _ in range(batch)]
    for _ in range(WARM_UP + STEPS_A_ROUND):
        for row in rows:
            cache.truncate(row, 0)
            cache.assume(row, length)
        cache.reserve(dict.fromkeys(rows, length + new))
        started = time.perf_counter()
        if new == 1:
            runner.advance(cache.groups[0], [[5]] * batch)
        else:
            runner.prefill_chunk(rows[0], [5] * new)
        seconds.append(time.perf_counter() - started)
    for row in rows:
        cache.free(row)
    return seconds[WARM_UP:]


def main(arguments: Sequence[str]) -> None:
    """Measure, print Markdown, keep JSON in benchmarks/results."""
    run("windows", arguments, model="gemma-3-270m", names=(BUILT, OTHER), changed=with_whole_caches, compared=compared)


if __name__ == "__main__":
    main(sys.argv[1:])
