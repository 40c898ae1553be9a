"""Plots of results, and what happens without matplotlib."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import plots, side_by_side
from benchmarks.results import Cell, Contestant, Results, as_json, from_json

NAMES = {"ours-auto": 0.005, "ours-f32": 0.0, "peer": None}


def cell(kind: str, length: int, batch: int, *names: str) -> Cell:
    rounds = {name: [[0.010 * (1 + index) * batch]] for index, name in enumerate(names)}
    return Cell(title=f"{kind} {length} {batch}", kind=kind, length=length, batch=batch, work=batch, rounds=rounds)


@pytest.fixture
def results() -> Results:
    return Results(
        model="tiny",
        machine={"cpu": "A processor", "cpu_features": "", "threads": 1},
        settings={},
        contestants=[
            Contestant(name=name, version="1", load_seconds=1, mean_kl=mean_kl) for name, mean_kl in NAMES.items()
        ],
        cells=[
            cell("prefill", 64, 1, *NAMES),
            *(cell("decode", length, batch, *NAMES) for length in (512, 64) for batch in (1, 2, 4, 8)),
            cell("decode", 1024, 8, "ours-auto"),
            cell("ragged", 0, 5, *NAMES),
        ],
    )


def test_everything_measured_is_drawn(results: Results, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drawn = plots.draw(results, tmp_path / "plots")
    assert [path.name for path in drawn] == [f"tiny-{name}.svg" for name in ("decode", "prefill", "ragged", "fidelity")]
    assert all("<svg" in path.read_text() for path in drawn)


def test_what_was_not_measured_is_not_drawn(results: Results, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results.cells = results.cells[:1]
    assert [path.name for path in plots.draw(results, tmp_path)] == ["tiny-prefill.svg"]


def test_decode_has_a_panel_for_each_batch(results: Results) -> None:
    pytest.importorskip("matplotlib")
    figure = plots.decode_plot(results)
    assert figure is not None
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ["batch 1", "batch 2", "batch 4", "batch 8"]
    lines = {line.get_label(): line for line in panels[3].lines}
    assert list(lines) == list(NAMES)
    assert lines["ours-auto"].get_xydata().tolist() == [[64, 80], [512, 80], [1024, 80]]
    assert lines["peer"].get_xydata().tolist() == [[64, 240], [512, 240]], "a length it could not do"
    assert [text.get_text() for text in figure.legends[0].texts] == list(NAMES)


def test_fidelity_is_at_the_smallest_batch_and_shortest_context(results: Results) -> None:
    pytest.importorskip("matplotlib")
    figure = plots.fidelity_plot(results)
    assert figure is not None
    (axes,) = figure.axes
    points = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert points == {"ours-auto": [[10, 0.005]], "ours-f32": [[20, plots.KL_FLOOR]]}, "peer gave no logits"
    assert "batch 1, context 64 (ms)" in axes.get_xlabel()


def test_kept_results_are_drawn(results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    data = json.loads(json.dumps(as_json(results, ("ours-auto",))))
    assert as_json(from_json(data), ("ours-auto",)) == data
    (tmp_path / "tiny.json").write_text(json.dumps(data))
    assert plots.main([str(tmp_path / "tiny.json"), str(tmp_path)]) == 0
    assert "tiny-ragged.svg" in capsys.readouterr().out
    assert plots.main([]) == 2


@pytest.mark.parametrize("is_there", [False, True])
def test_a_run_without_matplotlib_says_so(
    results: Results, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, is_there: bool
) -> None:
    drawn: list[Path] = []
    monkeypatch.setattr(side_by_side, "ROOT", tmp_path)
    monkeypatch.setattr(side_by_side, "compare", lambda settings: results)
    monkeypatch.setattr(plots, "can_draw", lambda: is_there)
    monkeypatch.setattr(plots, "draw", lambda results, folder: drawn.append(folder) or [])
    side_by_side.main(["tiny", "--plot", str(tmp_path / "plots")])
    assert drawn == ([tmp_path / "plots"] if is_there else [])
    notes = json.loads((tmp_path / "results" / "tiny.json").read_text())["notes"]
    assert notes == ([] if is_there else ["no plots: they need matplotlib (pip install matplotlib)"])
