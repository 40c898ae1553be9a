"""The image and the examples of deployment, as far as reading them tells; `.ci/container` builds and runs one."""

from __future__ import annotations

import fnmatch
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.settings import PREFIX, Settings, load_settings

ROOT = Path(__file__).parents[2]
TARGETS = ("cpu", "gpu")
Step = tuple[str, str]


def stages() -> dict[str, list[Step]]:
    """The Dockerfile's stages by name: instructions with their text."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"(?m)^\s*#.*\n", "", text).replace("\\\n", " ").splitlines()
    found: dict[str, list[Step]] = {}
    for line in filter(str.strip, lines):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found[rest.split(" AS ")[1]] = [(word, rest.strip())]
        elif found:
            list(found.values())[-1].append((word, " ".join(rest.split())))
    return found


def one(target: str, word: str) -> str:
    found = [rest for name, rest in stages()[target] if name == word]
    assert len(found) == 1, f"{target} has {len(found)} {word}"
    return found[0]


def environment(target: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in one(target, "ENV").split())


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "deploy" / name).read_text(encoding="utf-8")))


def deployed() -> dict[str, Any]:
    """The pod that Kubernetes is asked for."""
    (deployment,) = (each for each in documents("kubernetes.yaml") if each["kind"] == "Deployment")
    pod: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return pod


def kubernetes_environment() -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in deployed()["containers"][0]["env"]}


def composed() -> dict[str, Any]:
    service: dict[str, Any] = documents("compose.yaml")[0]["services"]["genai"]
    return service


@pytest.mark.parametrize("target", TARGETS)
def test_server_is_the_process_and_not_root(target: str) -> None:
    assert json.loads(one(target, "ENTRYPOINT")) == ["genai", "serve"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", one(target, "USER")), "clusters can tell a number from root, not a name"
    assert one(target, "VOLUME") == environment(target)["GENAI_HOME"]
    assert one(target, "EXPOSE") == environment(target)["GENAI_SERVER_PORT"]


def test_targets_differ_in_the_device_alone() -> None:
    def common(target: str) -> list[Step]:
        differing = ("FROM", "LABEL", "ENV")
        return [(word, rest.replace(target, "X")) for word, rest in stages()[target] if word not in differing]

    assert common("cpu") == common("gpu")
    assert environment("gpu") == environment("cpu") | {"GENAI_SERVER_ENGINE_DEVICE": "cuda"}


def test_base_images_are_pinned() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for image in re.findall(r"(?m)^ARG \w+_IMAGE=(.*)$", text):
        assert re.search(r":\d+\.\d+", image), image
    known = [*stages(), "${CPU_IMAGE}", "${GPU_IMAGE}"]
    assert [steps[0][1].split()[0] for steps in stages().values() if steps[0][1].split()[0] not in known] == []


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets a path into the build."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").split():
        pattern = line.removeprefix("!").removeprefix("**/")
        parents = [path, *map(str, Path(path).parents)]
        if any(fnmatch.fnmatch(each, pattern) or fnmatch.fnmatch(Path(each).name, pattern) for each in parents):
            sent = line.startswith("!")
    return sent


def test_what_is_copied_is_there_and_is_sent() -> None:
    for steps in stages().values():
        for word, rest in steps:
            if word == "COPY" and not rest.startswith("--from"):
                for source in rest.split()[:-1]:
                    files = [ROOT / source] if (ROOT / source).is_file() else list((ROOT / source).rglob("*.*"))
                    assert files, source
                    assert any(is_sent(str(file.relative_to(ROOT))) for file in files), source
    for secret in (".git/config", ".env", "deploy/.env", "keys.txt", ".venv/bin/python", "genai/__pycache__/x.pyc"):
        assert not is_sent(secret), secret


@pytest.mark.parametrize("target", TARGETS)
def test_libraries_are_those_of_the_lock(target: str) -> None:
    (line,) = (rest for word, rest in stages()[f"{target}-libraries"] if word == "RUN")
    assert f"--no-deps --require-hashes --requirement server-{target}.txt" in line
    (build, wheel) = (rest for word, rest in stages()["wheel"] if word == "RUN")
    assert "--no-deps --require-hashes --requirement build.txt" in build
    assert "--no-build-isolation" in wheel


@pytest.mark.parametrize("given", [environment("cpu"), environment("gpu"), composed()["environment"]])
def test_environments_are_settings(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (given | kubernetes_environment()).items():
        if name.startswith(PREFIX):
            monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.port == 8000
    settings.engine_config(next(iter(load_settings(flags={"models": ["any"]}).models.values())))


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def test_graceful_end_fits_before_the_kill() -> None:
    drain = Settings.model_fields["drain_timeout"].default
    assert seconds(composed()["stop_grace_period"]) > drain + 5
    pod = deployed()
    assert float(kubernetes_environment()[f"{PREFIX}DRAIN_TIMEOUT"]) == drain
    pause = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > pause + drain + 5


def test_examples_lock_the_container() -> None:
    service, pod = composed(), deployed()
    container = pod["containers"][0]
    uid = int(one("cpu", "USER").split(":")[0])
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert pod["securityContext"]["runAsUser"] == uid
    assert pod["securityContext"]["fsGroup"] == uid
    locked = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["securityContext"] == locked
    assert {each["mountPath"] for each in container["volumeMounts"]} == {"/models", "/tmp"}


def test_probes_ask_for_what_needs_no_key() -> None:
    open_paths = Settings.model_fields["open_paths"].default
    container = deployed()["containers"][0]
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert {"/health", "/ready"} <= set(open_paths)
    assert "/health" in one("cpu", "HEALTHCHECK")


def test_proxy_waits_longer_than_the_server_and_does_not_buffer() -> None:
    text = (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
    assert "proxy_buffering off;" in text
    (timeout,) = re.findall(r"proxy_read_timeout (\d+)s;", text)
    assert int(timeout) > Settings.model_fields["request_timeout"].default
    (size,) = re.findall(r"client_max_body_size (\d+)m;", text)
    assert int(size) << 20 >= Settings.model_fields["max_body_bytes"].default
