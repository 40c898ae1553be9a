"""What is missing is named with the command that installs it, in every command that needs it."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from genai import extras
from genai.errors import RuntimeUnavailableError

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def distributions(extra: str) -> set[str]:
    found: set[str] = set()
    for text in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(text)
        nested = requirement.extras if requirement.name == PROJECT["name"] else ()
        found |= {requirement.name} if not nested else set().union(*map(distributions, nested))
    return found


@pytest.mark.parametrize("extra", sorted(extras.MODULES.keys() - {"gpu"}))
def test_the_table_is_what_extras_bring(extra: str) -> None:
    """Each module comes from a package of its extra, and each package has one."""
    owners = importlib.metadata.packages_distributions()
    brought = {name.lower() for module in extras.MODULES[extra] for name in owners[module.split(".")[0]]}
    assert distributions(extra) <= brought
    assert extras.MODULES.keys() | {"dev"} == PROJECT["optional-dependencies"].keys()


def test_all_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    extras.require("convert", "converting")
    monkeypatch.setitem(sys.modules, "onnx_shape_inference", None)
    with pytest.raises(RuntimeUnavailableError) as caught:
        extras.require("convert", "converting")
    assert str(caught.value).startswith("converting needs onnx_shape_inference, which is not installed: pip install '")
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    with pytest.raises(RuntimeUnavailableError, match="onnx_ir, onnx_shape_inference, which are not"):
        extras.require("convert", "converting")


def test_failed_imports_are_told_by_their_extra() -> None:
    assert extras.extra_of("fastapi.responses") == "server"
    assert extras.extra_of("onnx_shape_inference") == "convert"
    assert extras.extra_of("numpy") is None
    assert extras.extra_of(None) is None


COMMANDS = {
    "convert": (["convert", "SOURCE", "OUT"], ["onnx_shape_inference"], "convert"),
    "export": (["export", "SOURCE", "OUT"], ["onnxscript"], "export"),
    "mobius": (["build", "SOURCE", "-o", "OUT", "--builder", "mobius"], ["onnx_ir", "mobius"], "mobius"),
    "fusions": (["inspect", "SOURCE/model.onnx", "--fusions"], ["onnx_shape_inference"], "convert"),
    "serve": (["serve", "SOURCE"], ["uvicorn"], "server"),
    "replicas": (["serve", "SOURCE", "--replicas", "2"], ["ray"], "ray"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_say_what_to_install(tmp_path: Path, name: str) -> None:
    arguments, missing, extra = COMMANDS[name]
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text('{"model_type": "llama"}')
    (source / "model.safetensors").touch()
    (source / "model.onnx").write_bytes((ROOT / "tests/convert/data/optimum/llama/model.onnx").read_bytes())
    filled = [part.replace("SOURCE", str(source)).replace("OUT", str(tmp_path / "out")) for part in arguments]
    code = "\n".join([
        "import sys",
        f"sys.modules.update(dict.fromkeys({missing}))",
        "from genai.cli.main import exit_code",
        f"sys.exit(exit_code({filled}))",
    ])  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert all(module in lines[0] for module in missing)
    assert f"pip install '.[{extra}]'" in lines[0]
