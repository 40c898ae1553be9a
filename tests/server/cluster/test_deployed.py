"""The examples in `deploy/` and the page say what the code reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.cluster import door
from server.cluster.keys import SESSION_HEADERS
from server.cluster.options import ClusterSettings
from server.cluster.plan import plans
from server.cluster.running import CALLBACK, ENVIRONMENT
from server.settings import load_settings

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")


def deployed(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / name).read_text(encoding="utf-8"))
    return document


def service() -> dict[str, Any]:
    document = deployed("rayservice.yaml")
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", "RayService")
    return document["spec"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "config", [deployed("ray.yaml"), yaml.safe_load(service()["serveConfigV2"])], ids=["ray", "kube"]
)
def test_arguments_are_settings_and_times_fit(config: dict[str, Any]) -> None:
    (application,) = config["applications"]
    settings = load_settings(flags=application["args"])
    (plan,) = plans(settings)
    assert (application["name"], application["route_prefix"]) == (plan.name, plan.route)
    assert application["import_path"] == "server.ray_serve:app"
    assert config["http_options"]["request_timeout_s"] > settings.request_timeout
    assert config["http_options"]["host"] == settings.host, "by which names it may be called follows from it"


def test_pods_have_rays_environment_and_a_replicas_processors() -> None:
    cluster = service()["rayClusterConfig"]
    (worker,) = cluster["workerGroupSpecs"]
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], worker)]
    for pod in pods:
        (container,) = pod["containers"]
        given = {each["name"]: each.get("value") for each in container["env"]}
        assert ENVIRONMENT.items() <= given.items()
        assert "GENAI_API_KEYS" in given
        assert container["image"] == "genai:ray"
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
    (application,) = yaml.safe_load(service()["serveConfigV2"])["applications"]
    (plan,) = plans(load_settings(flags=application["args"]))
    (container,) = pods[1]["containers"]
    assert int(container["resources"]["limits"]["cpu"]) == plan.num_threads
    assert worker["maxReplicas"] == plan.cluster.most
    grace = plan.deployment_options["graceful_shutdown_timeout_s"]
    assert all(pod["terminationGracePeriodSeconds"] > float(str(grace)) for pod in pods)


def test_the_service_asks_for_the_ray_that_is_locked() -> None:
    lock = (ROOT / "deploy" / "locks" / "server-ray.txt").read_text(encoding="utf-8")
    assert f"\nray=={service()['rayClusterConfig']['rayVersion']} " in lock


def test_what_proxies_call_is_there() -> None:
    module, _, name = CALLBACK.rpartition(".")
    assert module == door.__name__
    assert getattr(door, name) is door.callback


def test_the_page_names_settings_headers_and_variables() -> None:
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    for name in ClusterSettings.model_fields:
        assert any(f"`{name}`" in row for row in rows), name
    assert not {name for name in SESSION_HEADERS if f"`{name}`" not in PAGE}
    assert not {f"{name}={value}" for name, value in ENVIRONMENT.items() if f"{name}={value}" not in PAGE}
    assert re.search(r"10002–19999", PAGE)
