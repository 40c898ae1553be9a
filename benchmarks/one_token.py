"""What it costs that a step of one token has the bits of many: both forms of attention, in decode steps.

    python -m benchmarks.one_token [MODEL] [--precision auto] [--rounds 9]

The package as it is built, where Attention gets the heads of a group as tokens (`genai/build/parts/attending.py`),
beside a copy of it in which every step takes the other branch.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import onnx

from benchmarks.results import Cell
from benchmarks.rounds import Action, quiet_rounds
from benchmarks.texts import english_tokens, prompts
from benchmarks.two_ways import run
from genai.bench import WARM_UP, Stepper
from genai.config import MODEL_FILE, EngineConfig

SHAPES = ((1, 64), (1, 1024), (8, 64), (8, 1024))
"""Rows, and tokens that each holds."""
STEPS_A_ROUND = 8
BUILT, OTHER = "heads as tokens", "head by head"


def without_choice(package: Path, copy: Path) -> Path:
    """A copy of a package whose graph takes the branch of several tokens, whatever the step."""
    shutil.copytree(package, copy)
    model = onnx.load(copy / MODEL_FILE, load_external_data=False)
    _take_branches(model.graph)
    onnx.save(model, copy / MODEL_FILE)
    return copy


def _take_branches(graph: onnx.GraphProto) -> None:
    """Put what attends over several tokens in the place of each choice, inside of choices between parts, too."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        branches = {attribute.name: attribute.g for attribute in node.attribute}
        if node.op_type != "If" or not any(each.op_type == "Attention" for each in branches["else_branch"].node):
            for branch in branches.values() if node.op_type == "If" else ():
                _take_branches(branch)
            nodes.append(node)
            continue
        inner, result = branches["else_branch"].node, branches["else_branch"].output[0].name
        for each in inner:
            each.output[:] = [node.output[0] if name == result else name for name in each.output]
        nodes.extend(inner)
    del graph.node[:]
    graph.node.extend(nodes)


def compared(packages: dict[str, Path], rounds: int, threads: int | None) -> list[Cell]:
    """Seconds of decode steps at all shapes, interleaved."""
    tokens, cells = english_tokens(packages[BUILT]), []
    limit = max(length for _, length in SHAPES) + WARM_UP + STEPS_A_ROUND + 8
    config = EngineConfig(device="cpu", max_seq_len=limit, max_batch=8, num_threads=threads)
    with ExitStack() as stack:
        steppers = {name: stack.enter_context(Stepper(path, config)) for name, path in packages.items()}
        for batch, length in SHAPES:
            given = prompts(tokens, batch, length)
            actions = {
                name: Action(run=partial(steps_from, stepper, given), process_id=os.getpid())
                for name, stepper in steppers.items()
            }
            found = quiet_rounds(actions, rounds, patience=2, pause=0.05)
            title = f"{batch} row{'s' * (batch > 1)} of {length} tokens"
            cells.append(Cell(title=title, work=1, rounds=found.results, disturbance=found.disturbance))
    return cells


def steps_from(stepper: Stepper, given: Sequence[list[int]]) -> list[float]:
    """Seconds of the steps that follow prompts."""
    stepper.start(given)
    return [stepper.step().seconds for _ in range(WARM_UP + STEPS_A_ROUND)][WARM_UP:]


def main(arguments: Sequence[str]) -> None:
    """Measure, print Markdown, keep JSON in benchmarks/results."""
    run(
        "one_token",
        arguments,
        model="smollm2-135m-instruct",
        names=(BUILT, OTHER),
        changed=without_choice,
        compared=compared,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
