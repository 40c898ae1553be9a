"""From a checkpoint to a package, 16 bits, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import genai.export.package
from genai.cli.main import exit_code
from genai.config import ModelConfig
from genai.convert import ConvertOptions
from genai.errors import ConfigError, ModelError, ModelNotFoundError, RuntimeUnavailableError, UnsupportedModelError
from genai.export import Exported, ExportOptions, export, export_plain
from tests.build import tiny
from tests.export.checkpoints import PastPresent, make

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer."""
    return make("llama", tmp_path_factory.mktemp("llama") / "checkpoint", num_hidden_layers=1)


@pytest.fixture(scope="module")
def half(checkpoint: Path) -> Exported:
    """The checkpoint in 16 bits, its softmaxes in 32."""
    return export_plain(checkpoint, checkpoint.parent / "half", ExportOptions(dtype="f16"))


def precisions(folder: Path) -> list[int | None]:
    """Attention's `softmax_precision` in each layer."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    return [
        next((attribute.i for attribute in node.attribute if attribute.name == "softmax_precision"), None)
        for node in model.graph.node
        if node.op_type == "Attention"
    ]


def test_16_bits(checkpoint: Path, half: Exported) -> None:
    model = onnx.load(half.path / "model.onnx", load_external_data=False)
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert types["past_key_values.0.key"] == types["present.0.value"] == onnx.TensorProto.FLOAT16
    assert types["logits"] == onnx.TensorProto.FLOAT
    assert all(site.matched for site in half.fusions.sites), half.fusions.as_text()
    assert precisions(half.path) == [onnx.TensorProto.FLOAT]
    prompt = tiny.tokens(12)
    (logits,) = PastPresent(half.path).in_parts(np.array([prompt]), [8, 4])
    np.testing.assert_allclose(logits, tiny.expected(tiny.load(checkpoint), prompt), atol=0.05)


def test_sums_may_be_left_to_the_hardware(
    checkpoint: Path, half: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[ExportOptions] = []

    def exported(source: Path, output: Path, options: ExportOptions, progress: object) -> Exported:
        asked.append(options)
        return half

    monkeypatch.setattr(genai.export.package, "export_plain", exported)
    options = ExportOptions(dtype="f16", accumulate="hardware")
    report = export(checkpoint, tmp_path / "package", options)
    assert asked == [options]
    assert report.agreement.is_good
    assert precisions(tmp_path / "package") == [None]
    config = ModelConfig.read(tmp_path / "package")
    assert (config.cache_dtype, config.provenance.precision) == ("float16", "f16")
    assert config.provenance.options["accumulate"] == "hardware"
    with tiny.loaded(tmp_path / "package") as llm:
        assert llm.generate(tiny.tokens(5), max_new_tokens=3, ignore_eos=True).token_ids


def test_sums_in_32_bits_are_traced_and_verified_there(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def exported(source: Path, output: Path, options: ExportOptions, progress: object) -> Exported:
        calls.append(options)
        raise ArithmeticError

    monkeypatch.setattr(genai.export.package, "export_plain", exported)
    with pytest.raises(ArithmeticError):
        export(checkpoint, tmp_path / "package", ExportOptions(dtype="f16"))
    assert calls == [ExportOptions(dtype="f32")]
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_command_line_makes_a_package(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(checkpoint), str(tmp_path / "package"), "--dtype", "f16", "--max-seq-len", "64", "--json"]
    assert exit_code(["export", *arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["source"] == str(checkpoint)
    assert report["agreement"]["is_exact"]
    assert report["rounded"]["is_good"]
    assert [report["fusions"][kind]["matched"] for kind in ("RMSNormalization", "RotaryEmbedding", "Attention")] == [
        3,
        2,
        1,
    ]
    assert not report["fusions"]["RMSNormalization"]["sites"][0]["present"], "as it was traced, not as it was converted"
    assert json.loads((tmp_path / "package" / "conversion.json").read_text()) == report
    config = ModelConfig.read(tmp_path / "package")
    assert config.max_position == 64
    provenance = config.provenance
    assert (provenance.source, provenance.precision, provenance.builder) == ("checkpoint", "f16", "genai-export-1")
    assert {"dtype": "f16", "accumulate": "f32", "max_seq_len": 64}.items() <= provenance.options.items()
    assert precisions(tmp_path / "package") == [onnx.TensorProto.FLOAT]
    properties = onnx.load(tmp_path / "package" / "model.onnx", load_external_data=False).metadata_props
    assert {"accumulate": "f32", "dtype": "f16"}.items() <= {prop.key: prop.value for prop in properties}.items()
    prompt = tiny.tokens(9)
    with tiny.loaded(tmp_path / "package") as llm:
        logits = llm.logits(prompt)
    np.testing.assert_allclose(logits, tiny.expected(tiny.load(checkpoint), prompt), atol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "f64"}, "dtype='f64': must be one of f32, f16, bf16"),
        ({"dtype": "f16", "accumulate": "f16"}, "must be one of f32, hardware"),
        ({"accumulate": "hardware"}, "only models in 16 bits have a choice"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ExportOptions(**options)


def test_the_type_is_said_once(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dtype is an option of the export"):
        export(checkpoint, tmp_path / "package", conversion=ConvertOptions(dtype="f16"))


def test_what_cannot_be_verified_is_not_made(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="accumulate in f32, or write the plain model"):
        export(checkpoint, tmp_path / "package", ExportOptions(dtype="bf16", accumulate="hardware"))


def test_plain_has_no_options_of_packages(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(checkpoint), str(tmp_path / "plain"), "--plain", "--quantize", "int8"]
    assert exit_code(["export", *arguments]) == 2
    assert "--quantize and --max-seq-len are for packages" in capsys.readouterr().err


@pytest.mark.parametrize("write", [export, export_plain])
def test_a_folder_that_is_something_else_is_refused_before_the_work(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, Path], object]
) -> None:
    monkeypatch.setattr("genai.export.plain.load", lambda *_: pytest.fail("loaded"))
    (tmp_path / "letter.txt").write_text("keep me")
    with pytest.raises(ModelError, match="exists and is not a model package"):
        write(checkpoint, tmp_path)
    assert (tmp_path / "letter.txt").read_text() == "keep me"


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"it has no config\.json"):
        export_plain(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("model_type", "options", "message"),
    [
        ("bloom", {}, "bloom: layer 0 does not attend, or not through transformers' attention interface"),
        ("gpt_oss", {"num_hidden_layers": 1, "head_dim": 16, "num_local_experts": 2}, "layer 0 attends with s_aux"),
        ("falcon", {"alibi": False}, "it has attention of its own"),
        ("mamba", {}, "mamba: some layer keeps a state that is no keys and values"),
        ("bamba", {"mamba_n_heads": 4, "mamba_d_head": 32}, "bamba: some layer keeps a state that is no keys"),
        ("minimax", {}, "minimax does not run with the cache that exporting needs: MiniMax uses cache of its own"),
        ("mixtral", {"num_hidden_layers": 1, "num_local_experts": 2}, "its layers choose among experts .*mobius"),
    ],
)
def test_attention_that_cannot_be_replaced(
    tmp_path: Path, model_type: str, options: dict[str, Any], message: str
) -> None:
    source = make(model_type, tmp_path / "checkpoint", **options)
    with pytest.raises(UnsupportedModelError, match=message):
        export_plain(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_without_torch_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(RuntimeUnavailableError, match=r"exporting needs torch, .*pip install '\.\[export\]'"):
        getattr(genai.export, "export_plain")  # noqa: B009  # an import would bind the error's module


def test_encoder_decoder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(UnsupportedModelError, match="t5 is an encoder-decoder"):
        export_plain(tmp_path, tmp_path / "out")


def test_an_architecture_nobody_knows(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))
    with pytest.raises(UnsupportedModelError, match="no-such-model"):
        export_plain(tmp_path, tmp_path / "out")
