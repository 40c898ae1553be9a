from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pytest

from genai.errors import ConfigError, RuntimeUnavailableError
from genai.pipelines import (
    Backend,
    Device,
    DeviceFactory,
    GenerationConfig,
    GenerationInput,
    GenerationResult,
    Generator,
    Pipeline,
    Streamer,
    Text2Text,
    Text2TextPipelineFactory,
    registry,
)


class Echo:
    """A backend of one's own, as small as can be."""

    def __init__(self, models_path: Path, devices: Sequence[Device]) -> None:
        self.made_of = (models_path, devices)
        self._config = GenerationConfig()

    def __call__(self, source: GenerationInput | str, streamer: Streamer | None = None) -> GenerationResult:
        text = GenerationInput.of(source).text or ""
        return GenerationResult(text=text, token_ids=(), finish_reason="stop", texts=(text,))

    def get_generation_config(self) -> GenerationConfig:
        return self._config

    def set_generation_config(self, config: GenerationConfig) -> None:
        self._config = config

    def generator(self) -> Generator:
        raise ConfigError("no generator")

    def close(self) -> None:
        pass


def test_a_backend_registered_by_the_program() -> None:
    factory, devices = Text2TextPipelineFactory(), DeviceFactory()
    factory.register("echo", Echo)
    devices.register("echo", lambda: [Device("CPU"), Device("TPU", {"cores": 8})])
    chosen = [device for device in devices.enumerate("echo") if device.identifier == "TPU"]
    pipeline: Pipeline = factory.create("echo", "some/folder", chosen)
    assert isinstance(pipeline, Echo)
    assert pipeline.made_of == (Path("some/folder"), (Device("TPU", {"cores": 8}),))
    assert pipeline("hello").text == "hello"


def test_an_unknown_name() -> None:
    factory, devices = Text2TextPipelineFactory(), DeviceFactory()
    factory.register("echo", Echo)
    with pytest.raises(ConfigError) as caught:
        factory.create("nobody", "folder", [])
    assert str(caught.value) == "Unregistered GenAI framework: nobody"
    assert caught.value.__notes__ == ["there are: echo, native, onnxruntime-genai, openvino-genai"]
    with pytest.raises(ConfigError, match=r"^Unregistered GenAI framework: echo"):
        devices.enumerate("echo")


def test_one_factory_is_shared() -> None:
    assert Text2TextPipelineFactory.get_instance() is Text2TextPipelineFactory.get_instance()
    assert DeviceFactory.get_instance() is DeviceFactory.get_instance()
    assert Text2TextPipelineFactory() is not Text2TextPipelineFactory.get_instance()


def test_what_is_registered_goes_before_what_is_installed() -> None:
    factory, devices = Text2TextPipelineFactory(), DeviceFactory()
    factory.register("native", Echo)
    devices.register("native", list)
    assert isinstance(factory.create("native", "folder"), Echo)
    assert devices.enumerate("native") == []


def test_an_installed_backend_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(group: str) -> metadata.EntryPoints:
        assert group == "genai.backends"
        here = __name__
        return metadata.EntryPoints(
            metadata.EntryPoint(name, f"{here}:{value}", group)
            for name, value in {"mine": "MINE", "bad": "Echo"}.items()
        )

    monkeypatch.setattr(registry, "entry_points", installed)
    assert isinstance(Text2TextPipelineFactory().create("mine", "folder"), Echo)
    assert DeviceFactory().enumerate("mine") == [Device("CPU")]
    with pytest.raises(ConfigError, match=r"'bad' of genai\.backends is no genai\.pipelines\.Backend"):
        DeviceFactory().enumerate("bad")


MINE = Backend(create_text2text=Echo, enumerate_devices=lambda: [Device("CPU")])


@pytest.mark.parametrize(
    ("name", "module"), [("onnxruntime-genai", "onnxruntime_genai"), ("openvino-genai", "openvino_genai")]
)
def test_a_package_that_is_not_installed(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    for use in (lambda: DeviceFactory().enumerate(name), lambda: Text2TextPipelineFactory().create(name, "folder")):
        with pytest.raises(RuntimeUnavailableError, match=f"pip install {name}$"):
            use()


def test_several_devices_are_refused() -> None:
    with pytest.raises(ConfigError, match="native runs on one device, not on CPU, GPU"):
        Text2TextPipelineFactory().create("native", "folder", [Device("CPU"), Device("GPU")])


def test_an_input_is_one_thing() -> None:
    assert GenerationInput.of("x") == GenerationInput("x") == GenerationInput(text="x")
    with pytest.raises(ConfigError, match="not none"):
        GenerationInput()
    with pytest.raises(ConfigError, match="not text and token_ids"):
        GenerationInput("x", token_ids=[1])


def test_the_namespace_has_the_previews_names() -> None:
    for name in ("GenerationInput", "GenerationResult", "GenerationConfig", "Generator", "Pipeline"):
        assert getattr(Text2Text, name).__name__ == name
