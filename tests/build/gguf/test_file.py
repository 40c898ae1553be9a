from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genai.build.gguf.file import GgufFile
from genai.errors import ModelNotFoundError, UnsupportedModelError, WeightsError

RNG = np.random.default_rng(7)
BLOCK_TYPES = [kind for kind in GGMLQuantizationType if GGML_QUANT_SIZES[kind][0] > 1]
NOT_DEQUANTIZED = {"Q8_1", "Q8_K", "Q1_0"}


def write(path: Path, tensors: dict[str, np.ndarray], **metadata: object) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_string(key, str(value))
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def text(value: bytes | str) -> bytes:
    value = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(value)) + value


def entry(name: str, *, dims: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    return (
        text(name)
        + struct.pack("<I", len(dims))
        + b"".join(struct.pack("<Q", d) for d in dims)
        + struct.pack("<IQ", kind, offset)
    )


def header(
    *, metadata: bytes = b"", num_metadata: int = 0, tensors: bytes = b"", num_tensors: int = 0, version: int = 3
) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_metadata) + metadata + tensors


def saved(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    return path


def with_data(head: bytes, data: bytes) -> bytes:
    return head + b"\0" * (-len(head) % 32) + data


def test_metadata_of_every_type(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -3)
    writer.add_uint16("u16", 60000)
    writer.add_int16("i16", -3000)
    writer.add_uint32("u32", 2**32 - 1)
    writer.add_int32("i32", -7)
    writer.add_uint64("u64", 2**63)
    writer.add_int64("i64", -(2**40))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("text", "naïve ☃")
    writer.add_array("ints", [1, 2, 3])
    writer.add_array("floats", [0.5, -1.0])
    writer.add_array("flags", [True, False])
    writer.add_array("texts", ["a", "", "ü"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    metadata = GgufFile(tmp_path / "m.gguf").metadata
    expected = {
        "u8": 200, "i8": -3, "u16": 60000, "i16": -3000, "u32": 2**32 - 1, "i32": -7, "u64": 2**63, "i64": -(2**40),
        "f32": 0.5, "f64": 0.1, "yes": True, "text": "naïve ☃", "texts": ["a", "", "ü"],
    }  # fmt: skip
    assert {key: metadata[key] for key in expected} == expected
    assert [type(metadata[key]) for key in ("u8", "f32", "yes")] == [int, float, bool]
    assert np.asarray(metadata["ints"]).tolist() == [1, 2, 3]
    assert np.asarray(metadata["floats"]).tolist() == [0.5, -1.0]
    assert np.asarray(metadata["flags"]).tolist() == [True, False]
    assert np.asarray(metadata["flags"]).dtype == np.bool_


def test_odd_bytes_in_token_strings_are_kept_readable(tmp_path: Path) -> None:
    value = struct.pack("<IIQ", 9, 8, 2) + text(b"ok") + text(b"\xffx")
    file = GgufFile(saved(tmp_path, header(metadata=text("tokens") + value, num_metadata=1)))
    assert file.metadata["tokens"] == ["ok", "�x"]


def test_plain_tensors(tmp_path: Path) -> None:
    tensors = {
        "a": RNG.standard_normal((3, 5)).astype(np.float32),
        "b": RNG.standard_normal((2, 3, 4)).astype(np.float16),
        "c": RNG.standard_normal(7).astype(np.float64),
        "d": np.arange(-4, 4, dtype=np.int8),
        "e": np.arange(6, dtype=np.int32).reshape(2, 3),
        "f": np.arange(6, dtype=np.int16),
        "g": np.arange(6, dtype=np.int64),
    }
    with GgufFile(write(tmp_path / "m.gguf", tensors)) as file:
        assert list(file.tensors) == list(tensors)
        for name, tensor in tensors.items():
            assert file.info(name).shape == tensor.shape
            read = file.read(name)
            assert read.dtype == np.float32
            np.testing.assert_array_equal(read, tensor.astype(np.float32))


@pytest.mark.parametrize("kind", [*BLOCK_TYPES, GGMLQuantizationType.BF16], ids=lambda kind: kind.name)
def test_random_blocks_read_as_the_reference_reads_them(tmp_path: Path, kind: GGMLQuantizationType) -> None:
    block, nbytes = GGML_QUANT_SIZES[kind]
    raw = RNG.integers(0, 256, (6, 3 * nbytes), dtype=np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("t", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GgufFile(tmp_path / "m.gguf")
    assert file.info("t").shape == (6, 3 * block)
    if kind.name in NOT_DEQUANTIZED:
        with pytest.raises(UnsupportedModelError, match=f"'t' has type {kind.name}"):
            file.read("t")
        return
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(raw, kind)
    np.testing.assert_array_equal(file.read("t"), expected)


def test_large_tensors_are_read_in_chunks_without_seams(tmp_path: Path) -> None:
    weight = RNG.standard_normal((1100, 512)).astype(np.float32)
    raw = gguf.quantize(weight, GGMLQuantizationType.Q8_0)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("t", raw, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    np.testing.assert_array_equal(
        GgufFile(tmp_path / "m.gguf").read("t"), gguf.dequantize(raw, GGMLQuantizationType.Q8_0)
    )


def test_own_alignment_is_kept(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_custom_alignment(256)
    writer.add_tensor("a", np.arange(3, dtype=np.float32))
    writer.add_tensor("b", np.arange(5, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GgufFile(tmp_path / "m.gguf")
    assert file.info("b").offset % 256 == 0
    np.testing.assert_array_equal(file.read("b"), np.arange(5))


def test_version_2_reads_like_version_3(tmp_path: Path) -> None:
    data = np.arange(4, dtype="<f4").tobytes()
    content = with_data(header(tensors=entry("t"), num_tensors=1, version=2), data)
    np.testing.assert_array_equal(GgufFile(saved(tmp_path, content)).read("t"), np.arange(4))


def test_closed_file_and_missing_tensor(tmp_path: Path) -> None:
    file = GgufFile(write(tmp_path / "m.gguf", {"t": np.ones(3, np.float32)}))
    with pytest.raises(WeightsError, match="no tensor 'u'"):
        file.read("u")
    view = file.raw("t")
    file.close()
    file.close()
    assert view.view(np.float32).tolist() == [[1.0, 1.0, 1.0]]
    with pytest.raises(WeightsError, match="closed"):
        file.read("t")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no such file"):
        GgufFile(tmp_path / "m.gguf")
    with pytest.raises(WeightsError, match="cannot be read"):
        GgufFile(tmp_path)


HUGE = 2**64 - 1
U32 = struct.pack("<I", 4)
DAMAGED = {
    "empty": b"",
    "other": b"PK\x03\x04" + b"\0" * 60,
    "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "only magic": b"GGUF\3\0\0\0",
    "huge metadata count": header(num_metadata=HUGE),
    "huge tensor count": header(num_tensors=HUGE),
    "huge key": header(num_metadata=1, metadata=struct.pack("<Q", HUGE)),
    "long key": header(num_metadata=1, metadata=text("k" * 70_000) + U32 + U32),
    "key is not text": header(num_metadata=1, metadata=text(b"\xff") + U32 + U32),
    "huge string": header(num_metadata=1, metadata=text("k") + struct.pack("<IQ", 8, HUGE)),
    "unknown value type": header(num_metadata=1, metadata=text("k") + struct.pack("<IQ", 13, 0)),
    "huge number array": header(num_metadata=1, metadata=text("k") + struct.pack("<IIQ", 9, 4, HUGE)),
    "huge string array": header(num_metadata=1, metadata=text("k") + struct.pack("<IIQ", 9, 8, HUGE)),
    "cut string array": header(num_metadata=1, metadata=text("k") + struct.pack("<IIQ", 9, 8, 2) + text("a" * 9)),
    "nested array": header(num_metadata=1, metadata=text("k") + struct.pack("<IIQ", 9, 9, 1) + b"\0" * 32),
    "duplicate key": header(num_metadata=2, metadata=(text("k") + U32 + U32) * 2),
    "alignment 0": header(num_metadata=1, metadata=text("general.alignment") + U32 + struct.pack("<I", 0)),
    "alignment 3": header(num_metadata=1, metadata=text("general.alignment") + U32 + struct.pack("<I", 3)),
    "alignment text": header(num_metadata=1, metadata=text("general.alignment") + struct.pack("<I", 8) + text("32")),
    "duplicate tensor": with_data(header(tensors=entry("t") + entry("t", offset=32), num_tensors=2), b"\0" * 64),
    "no dimensions": with_data(header(tensors=entry("t", dims=()), num_tensors=1), b"\0" * 64),
    "five dimensions": with_data(header(tensors=entry("t", dims=(1,) * 5), num_tensors=1), b"\0" * 64),
    "huge dimensions": with_data(header(tensors=entry("t", dims=(HUGE,) * 4), num_tensors=1), b"\0" * 64),
    "product wraps to 0": with_data(header(tensors=entry("t", dims=(2**32, 2**32)), num_tensors=1), b"\0" * 64),
    "zero dimension": with_data(header(tensors=entry("t", dims=(0,)), num_tensors=1), b"\0" * 64),
    "half a block": with_data(header(tensors=entry("t", dims=(16,), kind=2), num_tensors=1), b"\0" * 64),
    "off alignment": with_data(header(tensors=entry("t", offset=4), num_tensors=1), b"\0" * 64),
    "past the end": with_data(header(tensors=entry("t", offset=64), num_tensors=1), b"\0" * 64),
    "huge offset": with_data(header(tensors=entry("t", offset=2**64 - 32), num_tensors=1), b"\0" * 64),
    "cut data": with_data(header(tensors=entry("t"), num_tensors=1), b"\0" * 15),
    "overlap": with_data(header(tensors=entry("t", dims=(12,)) + entry("u", offset=32), num_tensors=2), b"\0" * 64),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damage_gives_one_clear_line_and_costs_nothing(tmp_path: Path, content: bytes) -> None:
    path = saved(tmp_path, content)
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError) as caught:
            GgufFile(path)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (header(version=1), "version 1"),
        (header(version=4), "version 4"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (with_data(header(tensors=entry("t", kind=4), num_tensors=1), b"\0" * 64), "'t' has the unknown type 4"),
        (with_data(header(tensors=entry("t", kind=999), num_tensors=1), b"\0" * 64), "unknown type 999"),
    ],
)
def test_unsupported_files_are_named(tmp_path: Path, content: bytes, match: str) -> None:
    with pytest.raises(UnsupportedModelError, match=match):
        GgufFile(saved(tmp_path, content))


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("valid") / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "c"])
    writer.add_array("scores", [0.5, 1.0])
    writer.add_bool("flag", True)
    writer.add_tensor("f", np.ones((2, 3), np.float32))
    raw = gguf.quantize(np.ones((2, 64), np.float32), GGMLQuantizationType.Q4_1)
    writer.add_tensor("q", raw, raw_dtype=GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


EXTREMES = [struct.pack("<Q", value) for value in (0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, 2**40)]
MUTATIONS = st.lists(
    st.tuples(st.integers(0, 10_000), st.one_of(st.binary(min_size=1, max_size=9), st.sampled_from(EXTREMES))),
    max_size=4,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutations=MUTATIONS, cut=st.integers(0, 10_000))
def test_any_mutation_reads_or_is_refused(
    tmp_path: Path, valid: bytes, mutations: list[tuple[int, bytes]], cut: int
) -> None:
    content = bytearray(valid)
    for position, patch in mutations:
        start = position % len(content)
        content[start : start + len(patch)] = patch
    path = saved(tmp_path, bytes(content[: cut if cut < len(content) else None]))
    try:
        with GgufFile(path) as file:
            for name, info in file.tensors.items():
                assert file.read(name).shape == info.shape
    except (WeightsError, UnsupportedModelError) as error:
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.slow
def test_a_real_file_reads_as_the_reference_reads_it(smollm2_gguf: Path) -> None:
    reference = gguf.GGUFReader(smollm2_gguf)
    with GgufFile(smollm2_gguf) as file:
        assert file.tensors.keys() == {tensor.name for tensor in reference.tensors}
        for tensor in reference.tensors:
            assert file.info(tensor.name).shape == tuple(int(size) for size in reversed(tensor.shape))
            assert file.info(tensor.name).ggml_type == tensor.tensor_type.name
            expected = np.asarray(tensor.data).view(np.uint8).reshape(-1)
            np.testing.assert_array_equal(file.raw(tensor.name).reshape(-1), expected)
        for key, field in reference.fields.items():
            if not key.startswith("GGUF."):
                value = file.metadata[key]
                assert (value.tolist() if isinstance(value, np.ndarray) else value) == field.contents()
