from __future__ import annotations

import hashlib
import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from genai.build.open import open_source, source_digest
from genai.build.safetensors import SafetensorsSource
from genai.errors import ModelNotFoundError, UnsupportedModelError, WeightsError

RNG = np.random.default_rng(5)
CONFIG = {"model_type": "llama", "hidden_size": 8}


def folder(path: Path, tensors: dict[str, np.ndarray], config: dict[str, Any] | None = None) -> Path:
    (path / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    (path / "model.safetensors").write_bytes(save(tensors))
    return path


def raw_file(header: bytes | dict[str, Any], data: bytes = b"") -> bytes:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content)) + content + data


def raw_folder(path: Path, content: bytes) -> Path:
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "model.safetensors").write_bytes(content)
    return path


def sharded(path: Path, shards: dict[str, dict[str, np.ndarray]], weight_map: Any = None) -> Path:
    (path / "config.json").write_text(json.dumps(CONFIG))
    for name, tensors in shards.items():
        (path / name).write_bytes(save(tensors))
    if weight_map is None:
        weight_map = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return path


@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "bfloat16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"]
)
def test_numbers_of_every_type(tmp_path: Path, dtype: str) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    tensor = np.abs(RNG.standard_normal((3, 5)) * 3).astype(kind)
    # A first tensor of three bytes leaves the second one unaligned.
    with SafetensorsSource(folder(tmp_path, {"a": np.zeros(3, np.uint8), "b": tensor})) as source:
        assert set(source.names()) == {"a", "b"}
        assert source.shape("b") == (3, 5)
        read = source.read("b")
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, tensor.astype(np.float32))
        assert source.read_blocks("b") is None
        assert source.config == CONFIG


def test_scalars_and_empty_tensors(tmp_path: Path) -> None:
    source = SafetensorsSource(folder(tmp_path, {"s": np.array(2.5, np.float32), "e": np.zeros((0, 4), np.float32)}))
    assert source.read("s").item() == 2.5
    assert source.read("e").shape == (0, 4)


def test_shards(tmp_path: Path) -> None:
    shards = {f"model-0000{i}-of-00003.safetensors": {f"t{i}": np.full(i, i, np.float32)} for i in (1, 2, 3)}
    source = SafetensorsSource(sharded(tmp_path, shards))
    assert set(source.names()) == {"t1", "t2", "t3"}
    assert source.read("t2").tolist() == [2.0, 2.0]


def test_links_into_a_blob_store_are_followed(tmp_path: Path) -> None:
    """The layout of the Hugging Face cache."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, file in enumerate(folder(tmp_path, {"t": np.ones(2, np.float32)}).glob("*.*")):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", str(number)))
    assert open_source(snapshot).read("t").tolist() == [1.0, 1.0]


def test_missing_and_closed(tmp_path: Path) -> None:
    source = SafetensorsSource(folder(tmp_path, {"t": np.ones(2, np.float32)}))
    for call in (source.read, source.shape, source.read_blocks):
        with pytest.raises(WeightsError, match="no tensor 'u'"):
            call("u")
    source.close()
    source.close()
    with pytest.raises(WeightsError, match="closed"):
        source.read("t")


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HUGE = 2**63 - 1
DAMAGED = {
    "empty": b"",
    "seven bytes": b"\1\0\0\0\0\0\0",
    "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "huge header": struct.pack("<Q", 2**64 - 1) + b"{}",
    "header past the end": struct.pack("<Q", 3) + b"{}",
    "no json": raw_file(b"{nope"),
    "no object": raw_file(b"[1]"),
    "not text": raw_file(b'{"\xff": 1}'),
    "deep": raw_file(b"[" * 50_000 + b"]" * 50_000),
    "long number": raw_file(b'{"t": ' + b"9" * 10_000 + b"}"),
    "twice": raw_file(b'{"t": %s, "t": %s}' % ((json.dumps(F32).encode(),) * 2), b"\0" * 8),
    "entry is a list": raw_file({"t": []}),
    "no shape": raw_file({"t": {"dtype": "F32", "data_offsets": [0, 8]}}, b"\0" * 8),
    "shape is text": raw_file({"t": F32 | {"shape": "2"}}, b"\0" * 8),
    "negative shape": raw_file({"t": F32 | {"shape": [-2]}}, b"\0" * 8),
    "float shape": raw_file({"t": F32 | {"shape": [2.0]}}, b"\0" * 8),
    "true shape": raw_file({"t": F32 | {"shape": [True]}}, b"\0" * 8),
    "many dimensions": raw_file({"t": F32 | {"shape": [1] * 100_000}}, b"\0" * 8),
    "huge shape": raw_file({"t": F32 | {"shape": [HUGE] * 4}}, b"\0" * 8),
    "three offsets": raw_file({"t": F32 | {"data_offsets": [0, 4, 8]}}, b"\0" * 8),
    "backwards": raw_file({"t": F32 | {"data_offsets": [8, 0]}}, b"\0" * 8),
    "wrong size": raw_file({"t": F32 | {"data_offsets": [0, 4]}}, b"\0" * 8),
    "past the end": raw_file({"t": F32 | {"data_offsets": [4, 12]}}, b"\0" * 8),
    "cut data": raw_file({"t": F32}, b"\0" * 7),
    "huge offsets": raw_file({"t": F32 | {"data_offsets": [HUGE - 8, HUGE]}}, b"\0" * 8),
    "overlap": raw_file({"t": F32, "u": F32 | {"data_offsets": [4, 12]}}, b"\0" * 16),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damage_gives_one_clear_line_and_costs_nothing(tmp_path: Path, content: bytes) -> None:
    raw_folder(tmp_path, content)
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError) as caught:
            SafetensorsSource(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert "model.safetensors" in message
    assert "\n" not in message
    assert len(message) < 1000


def test_number_types_that_are_not_read_are_named(tmp_path: Path) -> None:
    raw_folder(tmp_path, raw_file({"t": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}, b"\0" * 8))
    with pytest.raises(UnsupportedModelError, match="'t' is of type 'F8_E4M3'"):
        SafetensorsSource(tmp_path)


INDEXES = {
    "parent": {"t": "../model.safetensors"},
    "absolute": {"t": "/etc/model.safetensors"},
    "windows": {"t": "..\\model.safetensors"},
    "drive": {"t": "c:model.safetensors"},
    "surrogate": {"t": "\ud800.safetensors"},
    "other suffix": {"t": "config.json"},
    "number": {"t": 3},
    "list": [],
    "empty": {},
}


@pytest.mark.parametrize("weight_map", INDEXES.values(), ids=INDEXES.keys())
def test_indexes_that_leave_the_folder_are_refused(tmp_path: Path, weight_map: Any) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "model.safetensors").write_bytes(save({"t": np.ones(2, np.float32)}))
    with pytest.raises(WeightsError, match=r"index\.json"):
        SafetensorsSource(sharded(inner, {}, weight_map))


def test_incomplete_shards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"a\.safetensors is missing"):
        SafetensorsSource(sharded(tmp_path, {}, {"t": "a.safetensors"}))
    with pytest.raises(WeightsError, match=r"places tensor 'u' in a\.safetensors"):
        SafetensorsSource(sharded(tmp_path, {"a.safetensors": {"t": np.ones(1, np.float32)}}, {"u": "a.safetensors"}))


def test_folders_without_weights_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"config\.json is missing"):
        open_source(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ModelNotFoundError, match="has neither"):
        open_source(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match="pickled"):
        open_source(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1, "a": 2}', '{"hidden_size": 8}', '{"model_type": 3}'])
def test_bad_configurations_are_refused(tmp_path: Path, text: str) -> None:
    folder(tmp_path, {"t": np.ones(2, np.float32)})
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=r"config\.json"):
        open_source(tmp_path)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8", None])
def test_quantized_checkpoints_are_refused_by_name(tmp_path: Path, method: str | None) -> None:
    settings = {"quant_method": method} if method else {"bits": 4}
    folder(tmp_path, {"t": np.ones(2, np.float32)}, CONFIG | {"quantization_config": settings})
    with pytest.raises(UnsupportedModelError, match=rf"quantized \(method '{method}'\)"):
        open_source(tmp_path)


def test_saved_models_read_back(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=60
    )
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    for size in ("1GB", "10KB"):
        place = tmp_path / size
        model.save_pretrained(place, max_shard_size=size)
        assert (place / "model.safetensors").is_file() == (size == "1GB")
        with open_source(place) as source:
            expected = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
            assert set(source.names()) == set(expected)
            for name, tensor in expected.items():
                np.testing.assert_array_equal(source.read(name), tensor)
            assert source.config["model_type"] == "llama"


def write_gguf(path: Path) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_what_a_path_means(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no such file or folder"):
        open_source(tmp_path / "nothing")
    # An empty GGUF file opens as one, and then lacks its contents.
    with pytest.raises(WeightsError, match="block_count is missing"):
        open_source(write_gguf(tmp_path / "a.gguf"))
    with pytest.raises(WeightsError, match="block_count is missing"):
        open_source(tmp_path)
    write_gguf(tmp_path / "b.gguf")
    with pytest.raises(WeightsError, match=r"has 2 models; give one of them: a\.gguf, b\.gguf"):
        open_source(tmp_path)
    folder(tmp_path, {"t": np.ones(2, np.float32)})
    assert isinstance(open_source(tmp_path), SafetensorsSource)
    with pytest.raises(WeightsError, match="give the folder"):
        open_source(tmp_path / "model.safetensors")


def test_digests(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf")
    assert source_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert source_digest(tmp_path) == source_digest(path)
    folder(tmp_path, {"t": np.ones(2, np.float32)})
    before = source_digest(tmp_path)
    (tmp_path / "README.md").write_text("not a weight")
    assert source_digest(tmp_path) == before
    folder(tmp_path, {"t": np.zeros(2, np.float32)})
    assert source_digest(tmp_path) != before
    with pytest.raises(ModelNotFoundError):
        source_digest(tmp_path / "nothing")
    (tmp_path / "model.safetensors").unlink()
    sharded(tmp_path, {}, {"t": "b.safetensors"})
    with pytest.raises(WeightsError, match=r"b\.safetensors cannot be read"):
        source_digest(tmp_path)


VALID = save({"a": np.ones((2, 3), np.float32), "b": np.ones(5, np.float16), "c": np.ones(2, ml_dtypes.bfloat16)})
EXTREMES = [b"9" * 19, b"-1", b"[", b'"', b"null", b"1e9", struct.pack("<Q", 2**64 - 1), b"\0" * 8]
MUTATIONS = st.lists(
    st.tuples(st.integers(0, 1000), st.one_of(st.binary(min_size=1, max_size=6), st.sampled_from(EXTREMES))), max_size=4
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutations=MUTATIONS, cut=st.integers(0, 2000))
def test_any_mutation_reads_or_is_refused(tmp_path: Path, mutations: list[tuple[int, bytes]], cut: int) -> None:
    content = bytearray(VALID)
    for position, patch in mutations:
        start = position % len(content)
        content[start : start + len(patch)] = patch
    raw_folder(tmp_path, bytes(content[: cut if cut < len(content) else None]))
    try:
        with SafetensorsSource(tmp_path) as source:
            for name in source.names():
                assert source.read(name).shape == source.shape(name)
    except (WeightsError, UnsupportedModelError) as error:
        assert "\n" not in str(error)  # noqa: PT017
