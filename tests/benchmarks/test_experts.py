"""The benchmark of experts, on models that are built in a second."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import experts
from genai.config import Precision
from genai.inspect import inspect


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_both_models_have_the_same_active_size_and_are_measured(tmp_path: Path, precision: Precision) -> None:
    args = experts.parser().parse_args(["--hidden", "256", "--size", "64", "--layers", "2"])
    packages = experts.build(args, precision, tmp_path)
    sparse, dense = (inspect(packages[name]) for name in (experts.SPARSE, experts.DENSE))
    assert sparse.experts is not None
    assert (sparse.experts.counts, sparse.experts.chosen, dense.experts) == ((8, 8), (2, 2), None)
    router = 2 * 8 * 256
    assert sparse.experts.num_parameters - sparse.experts.active_parameters == 2 * 6 * 3 * 64 * 256
    active = sparse.weight_bytes["experts"] * 2 // 8
    assert abs(active + 4 * router - dense.weight_bytes["mlp"]) <= 4 * router
    cell = experts.compared(packages, rounds=2, threads=1)
    assert all(second > 0 for rounds in cell.rounds.values() for seconds in rounds for second in seconds)
    text = experts.as_markdown(cell)
    assert "| experts |" in text
    assert "at most 1.3 wanted" in text
    assert set(experts.as_json(cell)) == {"median_seconds", "ratio", "disturbance"}
