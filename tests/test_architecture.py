"""The direction of the layers (docs/architecture.md), held over the syntax trees of all modules."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEAVES = {
    *("genai.config", "genai.contract", "genai.errors", "genai.extras", "genai.metrics", "genai.options"),
    "genai.progress",
}
STRINGS = {"genai.answer", "genai.chat", "genai.tokenizer"}
ALLOWED = {
    "genai.progress": set(),
    "genai.metrics": set(),
    "genai.errors": set(),
    "genai.extras": {"genai.errors"},
    "genai.config": {"genai.errors"},
    "genai.contract": {"genai.errors"},
    "genai.options": {"genai.errors"},
    "genai.chat": {"genai.errors"},
    "genai.tokenizer": {"genai.chat", "genai.errors"},
    "genai.runtime": LEAVES - {"genai.options"},
    "genai.decoding": {"genai.errors", "genai.options"},
    "genai.answer": {"genai.chat", "genai.errors", "genai.grammar", "genai.options", "genai.tokenizer"},
    "genai.grammar": {"genai.decoding", "genai.errors", "genai.options"},
    "genai.engine": LEAVES | {"genai.decoding", "genai.runtime"},
    "genai.build": LEAVES | {"genai.runtime", "genai.tokenizer"},
    "genai.inspect": LEAVES | {"genai.build", "genai.convert", "genai.runtime"},
    "genai.conformance": LEAVES | {"genai.inspect", "genai.runtime"},
    "genai.convert": LEAVES | {"genai.build", "genai.runtime", "genai.tokenizer"},
    "genai.export": LEAVES | {"genai.build", "genai.convert"},
    "genai.models": LEAVES | {"genai.build", "genai.convert", "genai.runtime"},
    "genai.llm": LEAVES
    | STRINGS
    | {"genai.decoding", "genai.engine", "genai.grammar", "genai.models", "genai.runtime"},
    "genai.requests": {"genai.chat", "genai.errors", "genai.options"},
    "genai.replies": {"genai.decoding", "genai.llm", "genai.tokenizer"},
    "genai.batch": LEAVES | STRINGS | {"genai.engine", "genai.llm", "genai.replies", "genai.requests"},
    "genai.bench": LEAVES | {"genai", "genai.llm", "genai.engine", "genai.runtime", "genai.models"},
    "genai.pipelines": LEAVES | STRINGS | {"genai.llm", "genai.runtime"},
}


def package_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def modules() -> list[Path]:
    return sorted([*(ROOT / "genai").rglob("*.py"), *(ROOT / "server").rglob("*.py")])


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "genai" else {node.module}
            )
    return found


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_point_down(path: Path) -> None:
    module = name_of(path)
    package = package_of(module)
    ours = {package_of(name) for name in imports_of(path) if name.split(".")[0] in {"genai", "server"}}
    if module.startswith("genai"):
        assert "server" not in {name.split(".")[0] for name in ours}, f"{module} imports the server"
    if package in ALLOWED:
        forbidden = ours - ALLOWED[package] - {package}
        assert not forbidden, f"{module} imports {sorted(forbidden)}"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_heavy_and_private_imports(path: Path) -> None:
    module, imports = name_of(path), imports_of(path)
    if module != "genai.runtime.ort":
        assert "onnxruntime" not in {name.split(".")[0] for name in imports}, f"{module} imports onnxruntime"
    if not module.startswith("genai.export"):
        assert "torch" not in {name.split(".")[0] for name in imports}, f"{module} imports torch"
    for name in imports:
        if name.startswith("genai.") and package_of(name) != package_of(module):
            assert not any(part.startswith("_") for part in name.split(".")), f"{module} imports the private {name}"


def test_only_config_reads_the_environment() -> None:
    for path in modules():
        if name_of(path) == "genai.config":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}:
                pytest.fail(f"{name_of(path)} line {node.lineno} reads the environment; let genai.config do it")


def test_every_package_is_known_here() -> None:
    packages = {package_of(name) for name in map(name_of, modules()) if name.startswith("genai")}
    assert packages <= ALLOWED.keys() | {"genai", "genai.cli"}, "say in ALLOWED what a new package may import"


def test_contract_names_are_spelled_in_one_place() -> None:
    names = {"nonpad_kv_seqlen", "write_indices", "logits_positions", "window_write_indices", "window_kv_seqlen"}
    for path in modules():
        if name_of(path) == "genai.contract":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and node.value in names:
                pytest.fail(f"{name_of(path)} line {node.lineno} spells {node.value!r}; take it from genai.contract")
