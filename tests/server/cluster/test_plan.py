"""From settings to what Ray is asked for, and what is refused, with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from genai.errors import ConfigError
from server.cluster.options import ClusterSettings
from server.cluster.plan import GRACE_SECONDS, plans
from server.settings import Settings, load_settings, to_toml


def settings(**more: object) -> Settings:
    return load_settings(flags={"models": ["a=x"], **more})


def test_a_model_gets_replicas_with_its_processors_and_limits() -> None:
    asked = settings(
        **{"cluster.replicas": 2, "engine.num_threads": 3, "engine.max_batch": 8, "engine.max_waiting": 20}
    )
    (plan,) = plans(asked)
    options = plan.deployment_options
    assert (plan.name, plan.route, plan.spill) == ("genai", "/", 8)
    assert options["num_replicas"] == 2
    assert options["ray_actor_options"] == {"num_cpus": 3}
    assert options["max_ongoing_requests"] == 8 + 20 + 16, "its rows, its queue, and who asks how it is"
    assert options["graceful_shutdown_timeout_s"] == asked.drain_timeout + GRACE_SECONDS


def test_their_number_follows_the_load() -> None:
    given = {"max_replicas": 5, "min_replicas": 2, "scale_up_after": 3, "spill_requests": 4}
    (plan,) = plans(settings(cluster=given, **{"engine.num_threads": 1, "engine.max_batch": 6}))
    assert plan.deployment_options["autoscaling_config"] == {
        "min_replicas": 2,
        "max_replicas": 5,
        "target_ongoing_requests": 6.0,
        "upscale_delay_s": 3.0,
        "downscale_delay_s": 600.0,
    }
    assert plan.spill == 4


def test_each_model_has_its_own() -> None:
    models = {
        "small": {"source": "x", "engine": {"num_threads": 1}},
        "org/big": {"source": "y", "cluster": {"replicas": 3}, "engine": {"device": "cuda"}},
    }
    asked = settings(models=models, fallback_model="small", **{"cluster.replicas": 2, "engine.num_threads": 4})
    small, big = plans(asked)
    assert [(plan.name, plan.route) for plan in (small, big)] == [("genai", "/"), ("genai-org/big", "/~org~big")]
    assert [plan.deployment_options["num_replicas"] for plan in (small, big)] == [2, 3]
    assert [list(plan.settings.models) for plan in (small, big)] == [["small"], ["org/big"]]
    assert [plan.settings.fallback_model for plan in (small, big)] == ["small", None]
    assert [plan.elsewhere for plan in (small, big)] == [("org/big",), ("small",)]
    assert big.deployment_options["ray_actor_options"] == {"num_cpus": 4, "num_gpus": 1}


def test_files_are_found_from_wherever_a_replica_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "package").mkdir()
    asked = settings(models=["package", "name=org/name"], api_keys_file="keys", **{"engine.num_threads": 1})
    package, named = plans(asked)
    assert package.settings.models["package"].source == str(tmp_path / "package")
    assert named.settings.models["name"].source == "org/name"
    (adapted,) = plans(
        settings(
            models={"package": {"source": "x", "adapters": {"mine": "package", "other": "y"}}},
            **{"engine.num_threads": 1},
        )
    )
    assert adapted.settings.models["package"].adapters == {"mine": str(tmp_path / "package"), "other": "y"}
    assert package.settings.api_keys_file == tmp_path / "keys"
    assert package.most == named.most == 2, "the machine's memory is for all of them"


def test_processors_of_one_machine_are_shared() -> None:
    (plan,) = plans(settings(**{"cluster.replicas": 2}), processors=5)
    assert plan.num_threads == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"load": "on_demand"}, "load='on_demand' cannot be had with replicas: a replica is ready when its models are"),
        ({"unload_after": 5}, "unload_after=5.0 cannot be had"),
        ({"models": {"a": {"source": "x", "load": "on_demand"}}}, "models.a.load='on_demand' cannot be had"),
        ({"admin_keys_file": "keys"}, "models and adapters would come and go in one replica alone"),
        ({"port": 0}, "port=0 cannot be had with replicas"),
        (
            {"cluster.replicas": 3, "engine.num_threads": 2},
            "3 replicas take 6 processors .2 each.* here are 4; ask for",
        ),
        ({"models": []}, "no model to serve"),
    ],
)
def test_what_makes_no_sense_is_refused(more: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plans(settings(**more), processors=4)


def test_processors_are_told_where_nobody_knows_the_machines() -> None:
    with pytest.raises(ConfigError, match=r"engine\.num_threads is to be given"):
        plans(settings(**{"cluster.address": "auto"}))


def test_administrators_keys_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENAI_ADMIN_KEYS", "k")
    with pytest.raises(ConfigError, match="GENAI_ADMIN_KEYS cannot be had with replicas"):
        plans(settings(), processors=4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"min_replicas": 2}, "min_replicas is about a number that follows the load: give max_replicas too"),
        ({"replicas": 2, "max_replicas": 3}, "give one of them"),
        ({"min_replicas": 4, "max_replicas": 3}, "min_replicas=4: must be at most max_replicas=3"),
        ({"replicas": 0}, "greater than or equal to 1"),
        ({"replica": 2}, "cluster.replica=2"),
    ],
)
def test_numbers_that_contradict_each_other(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(cluster=given)


def test_the_address_is_that_of_all() -> None:
    with pytest.raises(ConfigError, match="all models run on the same Ray"):
        settings(models={"a": {"source": "x", "cluster": {"address": "auto"}}})


def test_when_there_is_a_cluster() -> None:
    assert not settings().is_clustered
    assert not settings(**{"cluster.replicas": 1}).is_clustered
    assert settings(**{"cluster.replicas": 2}).is_clustered
    assert settings(**{"cluster.max_replicas": 2}).is_clustered
    assert settings(**{"cluster.address": "auto"}).is_clustered
    assert settings(models={"a": {"source": "x", "cluster": {"replicas": 2}}}).is_clustered


def test_settings_are_printed_as_they_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENAI_SERVER_CLUSTER_MAX_REPLICAS", "4")
    printed = to_toml(settings(**{"cluster.min_replicas": 2}))
    assert {"[cluster]", "min_replicas = 2", "max_replicas = 4", "# replicas ="} <= set(printed.splitlines())
    assert settings().cluster == ClusterSettings(max_replicas=4)
