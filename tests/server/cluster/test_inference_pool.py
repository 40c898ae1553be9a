"""`deploy/inference-pool.yaml`: fields as they are defined, parts that name each other, metrics that are there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from server.settings import Settings
from tests.server.fakes import FakeModel, app_with, serving

DEPLOY = Path(__file__).parents[3] / "deploy"
DOCUMENTS = {
    (each["kind"], each["metadata"]["name"]): each
    for name in ("kubernetes.yaml", "inference-pool.yaml")
    for each in yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8"))
}


def closed(**properties: object) -> dict[str, object]:
    """An object with no other fields than these; those whose names end with _ may be left out."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {name.removesuffix("_"): schema for name, schema in properties.items()},
        "required": [name for name in properties if not name.endswith("_")],
    }


TEXT, NUMBER = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 1, "maximum": 65535}
LABELS = {"type": "object", "minProperties": 1, "additionalProperties": TEXT}


def several(schema: object) -> dict[str, object]:
    return {"type": "array", "items": schema, "minItems": 1}


SPECS = {
    "InferencePool": closed(
        selector=closed(matchLabels=LABELS),
        targetPorts=several(closed(number=NUMBER)),
        endpointPickerRef=closed(
            name=TEXT,
            port=closed(number=NUMBER),
            failureMode_={"enum": ["FailOpen", "FailClose"]},
            kind_=TEXT,
            group_=TEXT,
        ),
    ),
    "HTTPRoute": closed(
        parentRefs=several(closed(name=TEXT)),
        rules=several(
            closed(
                matches=several(closed(path=closed(type={"enum": ["Exact", "PathPrefix"]}, value=TEXT))),
                backendRefs=several(closed(group=TEXT, kind=TEXT, name=TEXT)),
                timeouts=closed(request={"type": "string", "pattern": "^[0-9]{1,5}s$"}),
            )
        ),
    ),
    "HorizontalPodAutoscaler": closed(
        scaleTargetRef=closed(apiVersion=TEXT, kind=TEXT, name=TEXT),
        minReplicas=NUMBER,
        maxReplicas=NUMBER,
        metrics=several(
            closed(
                type={"const": "Pods"},
                pods=closed(metric=closed(name=TEXT), target=closed(type={"const": "AverageValue"}, averageValue=TEXT)),
            )
        ),
        behavior=closed(
            scaleUp=closed(stabilizationWindowSeconds={"type": "integer"}),
            scaleDown=closed(stabilizationWindowSeconds={"type": "integer"}),
        ),
    ),
}
"""Of the published definitions (InferencePool v1, HTTPRoute v1, autoscaling/v2) the fields that are used."""


def spec(kind: str, name: str = "genai") -> dict[str, Any]:
    return DOCUMENTS[kind, name]["spec"]  # type: ignore[no-any-return]


def picker() -> dict[str, Any]:
    """The picker's own configuration."""
    config: dict[str, Any] = yaml.safe_load(DOCUMENTS["ConfigMap", "genai-picker"]["data"]["picker.yaml"])
    return config


@pytest.mark.parametrize("kind", SPECS)
def test_fields_are_those_of_the_definitions(kind: str) -> None:
    jsonschema.validate(spec(kind), SPECS[kind])


def test_parts_name_each_other() -> None:
    pool, pod = spec("InferencePool"), spec("Deployment")["template"]
    assert pool["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert [port["number"] for port in pool["targetPorts"]] == [
        port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]
    ]
    reference = pool["endpointPickerRef"]
    service = spec("Service", reference["name"])
    assert reference["port"]["number"] in [port["port"] for port in service["ports"]]
    assert service["selector"] == spec("Deployment", "genai-picker")["template"]["metadata"]["labels"]
    (rule,) = spec("HTTPRoute")["rules"]
    (backend,) = rule["backendRefs"]
    assert ("InferencePool", backend["name"]) in DOCUMENTS
    assert backend["group"] == DOCUMENTS["InferencePool", "genai"]["apiVersion"].split("/")[0]
    assert float(rule["timeouts"]["request"].removesuffix("s")) > Settings.model_fields["request_timeout"].default
    target = spec("HorizontalPodAutoscaler")["scaleTargetRef"]
    assert (target["kind"], target["name"]) in DOCUMENTS


def test_the_picker_may_read_what_it_reads() -> None:
    pod = spec("Deployment", "genai-picker")["template"]["spec"]
    account = pod["serviceAccountName"]
    binding = DOCUMENTS["RoleBinding", "genai-picker"]
    assert [subject["name"] for subject in binding["subjects"]] == [account]
    rules = DOCUMENTS["Role", binding["roleRef"]["name"]]["rules"]
    assert {"pods", "inferencepools"} <= {resource for rule in rules for resource in rule["resources"]}
    (container,) = pod["containers"]
    arguments = dict(each.removeprefix("--").split("=") for each in container["args"])
    assert ("InferencePool", arguments["pool-name"]) in DOCUMENTS
    folder, _, name = arguments["config-file"].rpartition("/")
    assert folder in [mount["mountPath"] for mount in container["volumeMounts"]]
    assert name in DOCUMENTS["ConfigMap", "genai-picker"]["data"]


def test_the_pickers_profile_is_of_its_plugins() -> None:
    config = picker()
    assert (config["kind"], config["apiVersion"]) == ("EndpointPickerConfig", "llm-d.ai/v1alpha1")
    known = {plugin["type"] for plugin in config["plugins"]}
    (profile,) = config["schedulingProfiles"]
    (source,) = config["dataLayer"]["sources"]
    named = [each["pluginRef"] for each in (*profile["plugins"], source, *source["extractors"])]
    assert set(named) <= known
    assert "prefix-cache-scorer" in named


def test_metrics_are_those_of_the_server() -> None:
    async def page() -> str:
        model = FakeModel()
        model.llm.metrics.saw_prefix_room(16, 100)
        async with serving(app_with(model)) as http:
            return (await http.get("/metrics")).text

    families = {family.name: family for family in text_string_to_metric_families(asyncio.run(page()))}
    (extractor,) = (plugin for plugin in picker()["plugins"] if plugin["type"] == "core-metrics-extractor")
    (engine,) = extractor["parameters"]["engineConfigs"]
    assert extractor["parameters"]["defaultEngine"] == engine["name"]
    assert spec("Deployment")["template"]["metadata"]["labels"]["llm-d.ai/engine-type"] == engine["name"]
    scaled = spec("HorizontalPodAutoscaler")["metrics"][0]["pods"]["metric"]["name"]
    for name in (*(engine[key] for key in engine if key.endswith("Spec")), scaled):
        assert families[name].type == "gauge", name
    (sample,) = families[engine["cacheInfoSpec"]].samples
    assert (sample.value, sample.labels["block_size"], sample.labels["num_gpu_blocks"]) == (1, "16", "100")
