"""What the device double is asked, asked of a CUDA device: the tests that say whether the CUDA path works.

Run where a device and onnxruntime-gpu are: `pytest -m gpu`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from genai import contract
from genai.config import EngineConfig
from genai.llm.llm import LLM
from genai.runtime.cache import KVCache
from genai.runtime.cache_shape import CacheShape
from genai.runtime.layout import Move
from genai.runtime.ort import import_onnxruntime
from genai.runtime.probe import check_kernels
from genai.runtime.providers.cpu import CpuProvider
from genai.runtime.providers.cuda import CudaProvider
from genai.runtime.runner import Runner
from genai.runtime.session import Session
from tests import fakes
from tests.engine import test_mixes
from tests.random_model import build_random_model
from tests.tiny_package import tiny_package

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        "CUDAExecutionProvider" not in import_onnxruntime().get_available_providers(), reason="needs onnxruntime-gpu"
    ),
]
CPU, CUDA = EngineConfig(device="cpu"), EngineConfig(device="cuda")
TOKENS = [int(token) for token in np.random.default_rng(0).integers(0, 101, 200)]
TOLERANCE = 5e-2
"""f16 on CUDA against f32 on CPU, on logits of magnitude 3, as f16 on CPU is held to."""


def runner_for(path: Path, config: EngineConfig) -> Runner:
    session = Session(path, config)
    shape = contract.check_signature(session.inputs, session.outputs)
    cache_shape = CacheShape(caches=shape.caches, dtype=shape.cache_dtype)
    cache = KVCache(cache_shape, 1024, session.provider)
    return Runner(session, cache, output=shape.output, vocab_size=shape.output.width, num_heads=4, prefill_chunk=64)


@pytest.fixture
def runners(tmp_path: Path) -> tuple[Runner, Runner]:
    """The same weights: (f32 on CPU, f16 on CUDA)."""
    for precision in ("f32", "f16"):
        (tmp_path / precision).mkdir()
    cpu = runner_for(build_random_model(tmp_path / "f32"), CPU)
    return cpu, runner_for(build_random_model(tmp_path / "f16", "f16"), CUDA)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_kernels_are_right(dtype: str) -> None:
    """Twice through one binding, with other inputs the second time."""
    check_kernels(CUDA, dtype)


def test_the_device_tells_its_free_memory() -> None:
    free = CudaProvider(CUDA).free_memory()
    assert free is not None
    assert free > 2**20


@pytest.mark.parametrize("slot_bytes", [12, 4096])
def test_rows_move_in_device_memory_as_on_the_host(slot_bytes: int) -> None:
    size = 5000 * slot_bytes
    host, device = CpuProvider(CPU).allocate(size), CudaProvider(CUDA).allocate(size)
    assert not device.read(0, size).any()
    content = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    grow = [Move(row, row * 20, row * 24, 20) for row in range(99, 0, -1)]
    swap = [Move(1, 100, None, 50), Move(2, 3000, 100, 50), Move(1, None, 3000, 50)]
    for moves in (grow, swap):
        for buffer in (host, device):
            buffer.write(0, content)
            buffer.arrange(moves, slot_bytes)
            buffer.copy(0, size // 2, size // 2)
        np.testing.assert_array_equal(device.read(0, size), host.read(0, size))


def test_a_binding_is_shown_what_has_changed(runners: tuple[Runner, Runner]) -> None:
    """One shape, bound once: every run has tokens and a place of its own."""
    results = []
    for runner in runners:
        row = runner.cache.allocate(64)
        runner.prefill(row, TOKENS[:8])
        (group,) = runner.cache.groups
        results.append(np.stack([runner.advance(group, [[token]])[0, 0].copy() for token in TOKENS[8:14]]))
    np.testing.assert_allclose(results[1], results[0], atol=TOLERANCE)


def test_a_ragged_batch_says_what_the_cpu_says(runners: tuple[Runner, Runner]) -> None:
    results = []
    for runner in runners:
        rows = [runner.cache.allocate(length + 8) for length in (5, 90)]
        last = [runner.prefill(row, TOKENS[:length]).copy() for row, length in zip(rows, (5, 90), strict=True)]
        steps = []
        for step in range(6):
            for group in runner.cache.groups:
                logits = runner.advance(group, [[TOKENS[100 + step]]] * len(group.rows))
                steps += [(row, logits[index, 0].copy()) for index, row in enumerate(group.rows)]
        results.append(np.stack([*last, *(logits for _, logits in sorted(steps, key=lambda item: item[0]))]))
    np.testing.assert_allclose(results[1], results[0], atol=TOLERANCE)


def test_a_package_says_what_it_says_on_the_cpu(tmp_path: Path) -> None:
    folder = tiny_package(tmp_path / "tiny")
    tokens = list(b"Once upon a time")
    with LLM(folder, CPU) as cpu, LLM(folder, CUDA) as cuda:
        np.testing.assert_allclose(cuda.logits(tokens), cpu.logits(tokens), atol=TOLERANCE)


def test_a_saved_text_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    with LLM(tiny_package(tmp_path / "tiny"), CUDA) as llm, llm.generator(max_new_tokens=12, ignore_eos=True) as text:
        text.append_input_tokens(list(b"Once"))
        text.generate_next_token()
        text.save(tmp_path / "text.safetensors")
        logits = text.logits
        with llm.restore(tmp_path / "text.safetensors") as restored:
            np.testing.assert_array_equal(restored.logits, logits)
            restored.generate_next_token()
            text.generate_next_token()
            np.testing.assert_allclose(restored.logits, text.logits, atol=TOLERANCE)


@pytest.mark.parametrize("seed", range(10))
def test_mixes_keep_their_texts(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake model over the device's memory: one wrong copy gives a wrong text."""
    monkeypatch.setattr(fakes, "provider", CudaProvider)
    test_mixes.test_each_text_is_the_one_it_is_alone(seed)
