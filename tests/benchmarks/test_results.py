"""Results as Markdown and JSON."""

from __future__ import annotations

import json

import pytest

from benchmarks.results import Cell, Contestant, Results, as_json, as_markdown, markdown_table

CELL = Cell(
    title="Decode, batch 4, context 64",
    work=4,
    rounds={"ours": [[0.010, 0.012, 0.011], [0.020]], "theirs": [[0.022], [0.042, 0.038]]},
    disturbance=0.25,
)


@pytest.fixture
def results() -> Results:
    return Results(
        model="tiny",
        machine={"cpu": "A processor", "cpu_features": "avx2", "threads": 2},
        settings={"rounds": 2},
        contestants=[
            Contestant(
                name="ours",
                version="0.1",
                load_seconds=0.5,
                mean_kl=0.00351,
                top1=0.961,
                rss=10**8,
                peak=2 * 10**8,
                disk_bytes=3 * 10**8,
            ),
            Contestant(name="theirs", version="3", load_seconds=1.25),
        ],
        cells=[CELL],
        notes=["other is left out: it cannot be installed"],
    )


def test_cells_sum_up_rounds() -> None:
    assert CELL.medians() == {"ours": [0.011, 0.020], "theirs": [0.022, 0.040]}
    assert CELL.median("ours") == pytest.approx(0.0155)
    assert CELL.best("theirs") == 0.022


def test_tables() -> None:
    assert markdown_table(("", "ms"), [("a", "1")]) == "|  | ms |\n| --- | ---: |\n| a | 1 |"


def test_markdown_has_everything(results: Results) -> None:
    text = as_markdown(results, ("ours", "nobody"))
    assert "| ours | 0.1 | 0.0035 | 96.1% | 0.5 | 300 | 100 | 200 |" in text
    assert "| theirs | 3 |  |  | 1.2 | 0 | 0 | 0 |" in text
    assert "## Decode, batch 4, context 64 (others took up to 25% of the processors)" in text
    assert "|  | ms | best ms | tokens/s | × ours |" in text
    assert "| ours | 15.50 | 10.00 | 258.1 | 1.00 |" in text
    assert "| theirs | 31.00 | 22.00 | 129.0 | 2.00 |" in text
    assert "- other is left out: it cannot be installed" in text


def test_whole_requests_are_told_in_seconds(results: Results) -> None:
    results.cells = [
        Cell(
            title="Ragged, 2 requests",
            kind="ragged",
            work=60,
            rounds={"ours": [[2.0]], "theirs": [[5.0]]},
            baselines=["theirs"],
        )
    ]
    text = as_markdown(results, ("ours",))
    assert "|  | s | best s | tokens/s | × theirs |" in text
    assert "| ours | 2.00 | 2.00 | 30.0 | 0.40 |" in text


def test_json_has_the_single_rounds(results: Results) -> None:
    data = json.loads(json.dumps(as_json(results, ("ours",))))
    (cell,) = data["cells"]
    assert cell["rounds"]["theirs"] == [[0.022], [0.042, 0.038]]
    assert cell["ratios"] == {"ours": {"ours": 1.0, "theirs": 2.0}}
    assert data["contestants"][0]["mean_kl"] == 0.00351
    assert data["machine"]["threads"] == 2
