"""CUDA takes the same path as CPU: copies within device memory, updates in place, and the same logits.

Run where a device and onnxruntime-gpu are: `pytest -m gpu`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from genai import contract
from genai.config import EngineConfig
from genai.runtime.cache import CacheShape, KVCache
from genai.runtime.memory import CudaMemory, HostMemory, memory_for
from genai.runtime.probe import check_kernels
from genai.runtime.runner import Runner
from genai.runtime.session import Session, import_onnxruntime
from tests.random_model import build_random_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        "CUDAExecutionProvider" not in import_onnxruntime().get_available_providers(), reason="needs onnxruntime-gpu"
    ),
]
CUDA = EngineConfig(device="cuda")
TOKENS = [int(token) for token in np.random.default_rng(0).integers(0, 101, 200)]


def runner_for(path: Path, config: EngineConfig) -> Runner:
    session = Session(path, config)
    shape = contract.check_signature(session.inputs, session.outputs)
    cache_shape = CacheShape(num_buffers=2 * shape.num_layers, kv_size=shape.kv_size, dtype=shape.cache_dtype)
    return Runner(session, KVCache(cache_shape, 1024, memory_for(session, config)), shape.vocab_size, 64)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_kernels_are_right(dtype: str) -> None:
    check_kernels(CUDA, dtype)


def test_device_memory_moves_like_host_memory() -> None:
    content = np.random.default_rng(0).integers(0, 256, 1000, dtype=np.uint8)
    host, device = HostMemory().allocate(1000), CudaMemory(CUDA).allocate(1000)
    for buffer in (host, device):
        buffer.write(0, content)
    for target, source, size in ((100, 90, 300), (90, 100, 300), (500, 0, 500), (0, 0, 10), (3, 2, 50)):
        host.move(target, source, size)
        device.move(target, source, size)
        np.testing.assert_array_equal(device.read(0, 1000), host.read(0, 1000))


def test_a_ragged_batch_says_what_the_cpu_says(tmp_path: Path) -> None:
    """f16 on CUDA against f32 on CPU: 5e-2 on logits of magnitude 3, as f16 on CPU is held to."""
    for precision in ("f32", "f16"):
        (tmp_path / precision).mkdir()
    cpu = runner_for(build_random_model(tmp_path / "f32"), EngineConfig(device="cpu"))
    cuda = runner_for(build_random_model(tmp_path / "f16", "f16"), CUDA)
    results = []
    for runner in (cpu, cuda):
        rows = [runner.cache.allocate(length + 8) for length in (5, 90)]
        last = [runner.prefill(row, TOKENS[:length]).copy() for row, length in zip(rows, (5, 90), strict=True)]
        steps = []
        for step in range(6):
            for group in runner.cache.groups:
                logits = runner.advance(group, [[TOKENS[100 + step]]] * len(group.rows))
                steps += [(row, logits[index, 0].copy()) for index, row in enumerate(group.rows)]
        results.append(np.stack([*last, *(logits for _, logits in sorted(steps, key=lambda item: item[0]))]))
    np.testing.assert_allclose(results[1], results[0], atol=5e-2)
