"""What layers with a window gain where they read a part of a long cache: steps beside those that read the whole.

    python -m benchmarks.windows [MODEL] [--precision auto] [--rounds 9]

The package as it is built (`genai/build/parts/reach.py`), beside a copy in which no part is ever worthwhile. Rows are
taken for written, which costs no prefill of thousands of tokens: attention over zeros takes as long as over any keys.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchmarks.results import Cell
from benchmarks.rounds import Action, quiet_rounds
from benchmarks.two_ways import run
from genai.bench import WARM_UP
from genai.config import MODEL_FILE, EngineConfig, ModelConfig
from genai.runtime.load import load_runner
from genai.runtime.runner import Runner

SHAPES = ((1, 1024, 1), (1, 4096, 1), (1, 16000, 1), (8, 1024, 1), (8, 4096, 1), (1, 4096, 256))
"""Rows, tokens that each holds, and new ones of a step."""
STEPS_A_ROUND = 4
BUILT, OTHER = "parts", "whole caches"


def without_parts(package: Path, copy: Path) -> Path:
    """A copy of a package whose graph reads whole caches, however long they are. Raises: ValueError if all do."""
    shutil.copytree(package, copy)
    model = onnx.load(copy / MODEL_FILE, load_external_data=False)
    conditions = {node.input[0] for node in model.graph.node if _reads_part(node)}
    if not conditions:
        raise ValueError(f"{package} has no layers that read parts of their caches")
    never = numpy_helper.from_array(np.array(False))
    for node in model.graph.node:
        if node.output[0] in conditions:
            node.CopyFrom(helper.make_node("Constant", [], [node.output[0]], name=node.name, value=never))
    onnx.save(model, copy / MODEL_FILE)
    return copy


def _reads_part(node: onnx.NodeProto) -> bool:
    """Whether a choice begins with a copy of some slots."""
    branches = [attribute.g for attribute in node.attribute if attribute.name == "then_branch"]
    return node.op_type == "If" and any(each.node[0].op_type == "GatherND" for each in branches)


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
            cache.extend(row, length)
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
    run("windows", arguments, model="gemma-3-270m", names=(BUILT, OTHER), changed=without_parts, compared=compared)


if __name__ == "__main__":
    main(sys.argv[1:])
