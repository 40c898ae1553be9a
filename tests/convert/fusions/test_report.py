"""What a fusion report says, as text and as JSON."""

from __future__ import annotations

import pytest

from genai.convert.fusions.report import FusionReport, Mismatch, Site, layer_of

REASON = Mismatch(node="mul_3", expected="a constant", found="Add")
REPORT = FusionReport(
    patterns=("RMSNormalization", "RotaryEmbedding", "Attention"),
    sites=(
        Site(pattern="RMSNormalization", node="mean", layer=0),
        Site(pattern="RMSNormalization", node="norm", is_present=True),
        Site(pattern="RMSNormalization", node="mean_1", layer=1, mismatch=REASON),
        Site(pattern="Attention", node="mul_3", mismatch=REASON),
    ),
)


def test_text() -> None:
    assert REPORT.as_text().splitlines() == [
        "RMSNormalization: 2 of 3, 1 of them there before",
        "  layer 1, mean_1: at mul_3: expected a constant, found Add",
        "RotaryEmbedding: none found",
        "Attention: 0 of 1",
        "  mul_3: expected a constant, found Add",
    ]


def test_json() -> None:
    data = REPORT.as_json()
    assert data["RotaryEmbedding"] == {"found": 0, "matched": 0, "sites": []}
    norms = data["RMSNormalization"]
    assert isinstance(norms, dict)
    assert (norms["found"], norms["matched"]) == (3, 2)
    assert norms["sites"][2] == {
        "node": "mean_1",
        "layer": 1,
        "matched": False,
        "present": False,
        "reason": {"node": "mul_3", "expected": "a constant", "found": "Add"},
    }


def test_sites_of_a_pattern_are_replaced() -> None:
    changed = REPORT.with_sites("Attention", [Site(pattern="Attention", node="softmax")])
    assert [site.node for site in changed.of("Attention")] == ["softmax"]
    assert changed.of("RMSNormalization") == REPORT.of("RMSNormalization")
    assert REPORT.with_sites("MLP", []).patterns == (*REPORT.patterns, "MLP")


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.12.self_attn.q_proj.weight", 12),
        ("/model/layers.3/self_attn/Softmax", 3),
        ("transformer.h.7.attn.c_attn.weight", 7),
        ("/gpt_neox/layers.0/attention/Mul", 0),
        ("model.norm.weight", None),
        ("node_mul_5", None),
        ("vision.path.3.weight", None),
    ],
)
def test_layers_are_told_by_names(name: str, layer: int | None) -> None:
    assert layer_of(name) == layer
