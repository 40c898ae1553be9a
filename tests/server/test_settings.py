"""Settings: layers, precedence, refusals, and what is printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from genai.errors import ConfigError
from server.cluster.options import ClusterSettings
from server.settings import Settings, load_settings, read_toml, to_toml

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))


def written(folder: Path, text: str) -> Path:
    file = folder / "server.toml"
    file.write_text(text)
    return file


def test_file_then_environment_then_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, 'host = "a"\nport = 1\nmax_choices = 5\n[engine]\nmax_batch = 1\nprefill_chunk = 11\n')
    monkeypatch.setenv("GENAI_SERVER_PORT", "2")
    monkeypatch.setenv("GENAI_SERVER_HOST", "b")
    monkeypatch.setenv("GENAI_SERVER_ENGINE_MAX_BATCH", "2")
    settings = load_settings(file, {"host": "c", "models": ["m"], "engine.num_threads": 3})
    assert (settings.host, settings.port, settings.max_choices) == ("c", 2, 5)
    engine = settings.engine_config(settings.models["m"])
    assert (engine.max_batch, engine.prefill_chunk, engine.num_threads) == (2, 11, 3)


def test_the_environment_names_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENAI_SERVER_CONFIG", str(written(tmp_path, "port = 7\n")))
    assert load_settings().port == 7
    assert load_settings(written(tmp_path, "port = 8\n")).port == 8


def test_lists_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENAI_SERVER_MODELS", "small=some/where.gguf, org/name")
    monkeypatch.setenv("GENAI_SERVER_CORS_ORIGINS", "https://a.example, https://b.example")
    settings = load_settings()
    assert {name: model.source for name, model in settings.models.items()} == {
        "small": "some/where.gguf",
        "org/name": "org/name",
    }
    assert settings.cors_origins == ["https://a.example", "https://b.example"]


def test_a_model_is_called_by_what_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "my-package"
    folder.mkdir()
    settings = load_settings(flags={"models": [str(folder), "weights/tiny.Q8_0.gguf", "smollm2-135m-instruct"]})
    assert list(settings.models) == ["my-package", "tiny.Q8_0", "smollm2-135m-instruct"]


def test_a_model_has_engine_options_of_its_own(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        '[engine]\nmax_batch = 4\nprefill_chunk = 64\n[models.a]\nsource = "x"\n'
        '[models.b]\nsource = "y"\nprecision = "f32"\n[models.b.engine]\nmax_batch = 2\n',
    )
    settings = load_settings(file)
    a, b = (settings.engine_config(settings.models[name]) for name in "ab")
    assert (a.max_batch, a.prefill_chunk, b.max_batch, b.prefill_chunk) == (4, 64, 2, 64)
    assert a.max_waiting == 64, "a server's queue is bounded unless it is told otherwise"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "unknown setting 'prot'"),
        ("port = 'x'", "port='x': input should be a valid integer"),
        ("port = 65536", "port=65536: input should be less than or equal to 65535"),
        ("request_timeout = inf", "request_timeout=inf"),
        ("drain_timeout = 0", "drain_timeout=0: input should be greater than 0"),
        ("log_format = 'xml'", "'console' or 'json'"),
        ("open_paths = ['health']", "'health' must begin with a slash"),
        ("models = ['a=x', 'a=y']", "two models are called 'a'"),
        ("models = ['=x']", "'' cannot be a model's name"),
        ('models = ["a\\tb=x"]', "cannot be a model's name"),
        ("models = [3]", "3 is not the name of a model"),
        ("[models.a]", "models.a.source"),
        ("[models.a]\nsource = 'x'\nsauce = 1", "models.a.sauce=1"),
        ("[models.a]\nsource = 'x'\n[models.a.engine]\nmax_bach = 1", "unknown engine option 'max_bach'"),
        ("[engine]\nmax_batch = 0", "max_batch=0: must be at least 1"),
        ("[engine]\ndevice = 'tpu'", "engine.device='tpu'"),
        ("port = ", "is not TOML"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(written(tmp_path, text))
    assert message in str(caught.value)


def test_the_origin_of_a_bad_value_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, "port = 1\n")
    monkeypatch.setenv("GENAI_SERVER_PORT", "x")
    with pytest.raises(ConfigError, match=r"^GENAI_SERVER_PORT: port='x'"):
        load_settings(file)
    monkeypatch.setenv("GENAI_SERVER_PRT", "1")
    with pytest.raises(ConfigError, match=r"^GENAI_SERVER_PRT: unknown setting 'prt'"):
        load_settings(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path / "none.toml")


def test_what_is_printed_can_be_read_again(tmp_path: Path) -> None:
    flags = {
        "models": ["a=x", "b/c=y"],
        "host": 'quote " and \\ and é',
        "cors_origins": "https://a.example",
        "api_keys_file": "keys.txt",
        "engine.max_batch": "3",
        "engine.session_options": {"key.with.dots": "1"},
    }
    settings = load_settings(flags=flags)
    text = to_toml(settings)
    again = load_settings(written(tmp_path, text))
    assert to_toml(again) == text
    assert again.models == settings.models
    assert again.engine_config(again.models["a"]) == settings.engine_config(settings.models["a"])
    lines = [line.removeprefix("# ") for line in text.splitlines()]
    for name in (Settings.model_fields.keys() | ClusterSettings.model_fields.keys()) - {"engine", "cluster", "models"}:
        assert any(line.startswith(f"{name} =") for line in lines), name


@pytest.mark.parametrize("file", [file for file in CONFIGS if file.name != "models.toml"], ids=lambda file: file.stem)
def test_configurations_load_and_are_commented(file: Path) -> None:
    settings = load_settings(file, {} if "models" in read_toml(file) else {"models": ["m"]})
    for model in settings.models.values():
        settings.engine_config(model)
    assert settings.is_on_loopback
    assert sum(line.startswith("#") for line in file.read_text().splitlines()) >= 5


def test_there_are_configurations() -> None:
    assert {file.stem for file in CONFIGS} >= {"cpu", "gpu", "small-memory"}


@pytest.mark.parametrize(
    ("host", "is_on_loopback"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback(host: str, is_on_loopback: bool) -> None:
    assert Settings(host=host).is_on_loopback == is_on_loopback
