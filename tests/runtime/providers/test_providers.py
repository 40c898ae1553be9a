"""Choosing a device, what its options may say, and that a new one is one class and one entry."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import genai
from genai.config import DEVICES, EngineConfig
from genai.errors import CapacityError, ConfigError, RuntimeUnavailableError
from genai.runtime import load
from genai.runtime.load import load_runner
from genai.runtime.ort import DeviceBinding
from genai.runtime.probe import check_kernels
from genai.runtime.providers import PROVIDERS, choose_device, cuda, provider_class, provider_for
from genai.runtime.providers.cuda import CudaProvider
from tests.device_double import DeviceDouble, registered
from tests.runtime.test_load import package


def test_every_device_that_may_be_asked_for_has_a_provider() -> None:
    assert set(DEVICES) == {"auto", *PROVIDERS}
    assert all(provider.name == name for name, provider in PROVIDERS.items())
    with pytest.raises(ConfigError, match="device='tpu': must be one of cuda, cpu"):
        provider_class("tpu")


def test_no_other_module_tells_devices_apart() -> None:
    """Comparisons with a device's name: what differs between devices is asked of their providers."""
    names = {*PROVIDERS, "CPUExecutionProvider", "CUDAExecutionProvider"}
    theirs = {"onnxruntime_genai.py"}  # another runtime's providers
    root = Path(genai.__file__).parent
    for path in root.rglob("*.py"):
        if path.parent.name == "providers" or path.name in theirs:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare | ast.match_case):
                found = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)} & names
                assert not found, f"{path.relative_to(root)} line {getattr(node, 'lineno', '?')} asks for {found}"


def test_a_new_device_is_one_class_and_one_entry(tmp_path: Path) -> None:
    config, host = package(tmp_path), EngineConfig(device="cpu", num_threads=1)
    with registered():
        device = EngineConfig(device="double", num_threads=1)  # type: ignore[arg-type]
        assert choose_device(device.device) == "double"
        assert choose_device("auto") == choose_device("cpu")
        runners = [load_runner(tmp_path, config, each).runner for each in (host, device)]
    logits = [runner.score(runner.cache.allocate(9), list(range(9))) for runner in runners]
    np.testing.assert_array_equal(*logits)


def test_the_probe_changes_what_is_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is not shown what has changed would repeat the first step for ever."""
    with registered():
        config = EngineConfig(device="double", num_threads=1)  # type: ignore[arg-type]
        check_kernels(config, "float32")
        monkeypatch.setattr(DeviceBinding, "send", lambda self, names: None)
        with pytest.raises(RuntimeUnavailableError, match="results for 1 new tokens are off by"):
            check_kernels(config, "float32")


def test_the_arena_is_the_devices_and_the_prefix_cache_the_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = package(tmp_path)
    monkeypatch.setattr(load, "free_host_memory", lambda: 4_000_000_000)
    monkeypatch.setattr(DeviceDouble, "free", 2_000_000)
    with registered():
        loaded = load_runner(tmp_path, config, EngineConfig(device="double"))  # type: ignore[arg-type]
        assert loaded.runner.cache.num_slots == 1_000_000 // loaded.runner.cache.shape.bytes_per_token
        assert loaded.prefix_cache_bytes == 400_000_000
        monkeypatch.setattr(DeviceDouble, "free", None)
        with pytest.raises(CapacityError, match="does not tell how much of its memory is free; set kv_cache_bytes"):
            load_runner(tmp_path, config, EngineConfig(device="double"))  # type: ignore[arg-type]
        given = EngineConfig(device="double", kv_cache_bytes=600_000)  # type: ignore[arg-type]
        assert (
            load_runner(tmp_path, config, given).runner.cache.num_slots
            == 600_000 // loaded.runner.cache.shape.bytes_per_token
        )


@pytest.mark.parametrize("value", ["-1", "one", "", "1.5", "²"])
def test_a_device_id_that_is_no_number_is_refused(value: str) -> None:
    for provider in (*PROVIDERS.values(), DeviceDouble):
        with pytest.raises(ConfigError, match=r"device_id=.*must be a whole number, 0 or more"):
            provider(EngineConfig(provider_options={"device_id": value}))


def test_the_cpu_is_one_device() -> None:
    provider_for(EngineConfig(device="cpu", provider_options={"device_id": "0"}))
    with pytest.raises(ConfigError, match="device_id=1: the CPU is one device"):
        provider_for(EngineConfig(device="cpu", provider_options={"device_id": "1"}))


@pytest.mark.parametrize("given", [3, "3"])
def test_the_options_go_to_onnx_runtime_with_the_device_id(given: str) -> None:
    """Those that it does not know are its own business."""
    options = {"device_id": given, "arena_extend_strategy": "kSameAsRequested"}
    assert CudaProvider(EngineConfig(provider_options=options)).options == {**options, "device_id": "3"}
    assert CudaProvider(EngineConfig()).options == {"device_id": "0"}


def test_a_device_id_is_honoured_where_memory_is_allocated_bound_and_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    third = EngineConfig(provider_options={"device_id": "3"})
    asked: list[tuple[object, ...]] = []
    session = Recorder(asked)
    CudaProvider(third).binding(session).bind_input("x", "uint8", [4], 99)  # type: ignore[arg-type]
    assert asked == [("x", "cuda", 3, 2, [4], 99)]
    asked.clear()
    monkeypatch.setattr(cuda, "import_onnxruntime", lambda: Recorder(asked))
    CudaProvider(third).allocate(10).read(2, 3)
    kinds = {arguments[0]: arguments[1:] for arguments in asked}
    assert kinds["session"] == ([("CUDAExecutionProvider", {"device_id": "3"})],)
    assert {arguments[2:] for arguments in asked if arguments[0] == "value"} == {("cuda", 3)}
    assert {arguments[1:3] for arguments in asked if arguments[0] in ("x", "y")} == {("cuda", 3), ("cpu", 0)}


class Recorder:
    """ONNX Runtime, a session and a binding at once: keeps what it is asked for."""

    def __init__(self, asked: list[tuple[object, ...]]) -> None:
        self.asked = asked
        self.OrtValue = self

    def InferenceSession(self, model: bytes, providers: object) -> Recorder:
        self.asked.append(("session", providers))
        return self

    def ortvalue_from_shape_and_type(self, shape: list[int], dtype: type, *device: object) -> Recorder:
        self.asked.append(("value", shape[0], *device))
        return self

    def data_ptr(self) -> int:
        return 1 << 50

    def io_binding(self) -> Recorder:
        return self

    def bind_input(self, *arguments: object) -> None:
        self.asked.append(arguments)

    bind_output = bind_input

    def run_with_iobinding(self, binding: object) -> None:
        pass
