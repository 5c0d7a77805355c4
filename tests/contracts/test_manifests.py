"""What deploys a server agrees with the server, and each file with the others."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from superserve.serving.config import Config, resolve

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
DEFAULTS = Config()

#: What a server needs to end its workers and close its connections once it has drained.
ENDING_S = 5
PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}


def manifest(name: str) -> Any:
    return yaml.safe_load((KUBERNETES / f"{name}.yaml").read_bytes())


def pod() -> Any:
    return manifest("deployment")["spec"]["template"]["spec"]


def container() -> Any:
    (only,) = pod()["containers"]
    return only


def compose() -> Any:
    return yaml.safe_load((ROOT / "compose.yaml").read_bytes())["services"]


def test_what_was_admitted_is_answered_before_a_pod_is_killed() -> None:
    """The grace period holds the sleep before the signal, the drain, and the end."""
    asleep_s = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod()["terminationGracePeriodSeconds"] >= asleep_s + DEFAULTS.server.drain_timeout_s + ENDING_S


def test_the_same_holds_under_compose() -> None:
    grace_s = int(compose()["superserve"]["stop_grace_period"].removesuffix("s"))
    assert grace_s >= DEFAULTS.server.drain_timeout_s + ENDING_S


def test_every_port_is_the_servers() -> None:
    """Of the image, the pod, the service and the default configuration."""
    assert DEFAULTS.server.http_port == PORTS["http"]
    assert [int(port) for port in re.findall(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)[0].split()] == [
        *PORTS.values()
    ]
    assert {port["name"]: port["containerPort"] for port in container()["ports"]} == PORTS
    service = manifest("service")["spec"]["ports"]
    assert {port["name"]: port["port"] for port in service} == PORTS
    assert all(port["targetPort"] == port["name"] for port in service)


@pytest.mark.parametrize("probe", ["startupProbe", "livenessProbe", "readinessProbe"])
def test_probes_ask_for_health(probe: str) -> None:
    """A worker that is away makes nobody restart the server: that is readiness."""
    asked = container()[probe]["httpGet"]
    assert asked["port"] == "http"
    assert asked["path"] == ("/v2/health/ready" if probe == "readinessProbe" else "/v2/health/live")


def test_everybody_means_the_same_pods() -> None:
    """Deployment, service, budget and monitor select by the same labels."""
    labels = manifest("deployment")["spec"]["template"]["metadata"]["labels"]
    assert manifest("deployment")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("service")["spec"]["selector"] == labels
    assert manifest("poddisruptionbudget")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("service")["metadata"]["labels"] == manifest("servicemonitor")["spec"]["selector"]["matchLabels"]
    name = manifest("deployment")["metadata"]["name"]
    assert manifest("hpa")["spec"]["scaleTargetRef"]["name"] == name
    assert manifest("keda-scaledobject")["spec"]["scaleTargetRef"]["name"] == name


def test_variables_are_settings_of_the_server() -> None:
    """Unknown keys would be refused when it starts; the router and each worker have a core."""
    config = resolve({}, {each["name"]: each["value"] for each in container()["env"]}).config
    resources = container()["resources"]
    assert resources["requests"] == resources["limits"]
    assert config.workers.count == int(resources["limits"]["cpu"]) - 1
    image = dict(re.findall(r"(SUPERSERVE_\w+__\w+)=(\S+)", DOCKERFILE))
    assert resolve({}, image).config.server.host == "0.0.0.0"  # noqa: S104  (in a container)


def test_a_pod_has_no_rights_that_it_does_not_need() -> None:
    """The image's user, a root file system that nobody writes, and room where the server does write."""
    user, group = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)[0]
    context = pod()["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"], context["runAsNonRoot"]) == (int(user), int(group), True)
    own = container()["securityContext"]
    assert own["readOnlyRootFilesystem"]
    assert not own["allowPrivilegeEscalation"]
    assert own["capabilities"] == {"drop": ["ALL"]}
    cache = re.findall(r"SUPERSERVE_CACHE=(\S+)", DOCKERFILE)[0]
    assert {mount["mountPath"] for mount in container()["volumeMounts"]} == {cache, "/tmp"}  # noqa: S108
    assert f"cache:{cache}" in compose()["superserve"]["volumes"]


def test_kustomize_applies_all_but_the_autoscalers() -> None:
    """Of which a cluster has one or the other."""
    others = {"kustomization.yaml", "hpa.yaml", "keda-scaledobject.yaml", "prometheus-adapter-values.yaml"}
    listed = manifest("kustomization")["resources"]
    assert set(listed) == {path.name for path in KUBERNETES.glob("*.yaml")} - others


def test_prometheus_reads_what_compose_starts() -> None:
    """The service's name and port; Grafana asks that Prometheus, and finds the board."""
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_bytes())["scrape_configs"][0]
    assert scraped["static_configs"][0]["targets"] == [f"superserve:{PORTS['metrics']}"]
    assert {"superserve", "prometheus"} <= set(compose())
    provisioning = ROOT / "deploy/grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_bytes())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards/superserve.yaml").read_bytes())["providers"]
    mounted = [volume.split(":")[:2] for volume in compose()["grafana"]["volumes"]]
    assert ["./deploy/grafana/superserve.json", f"{provider['options']['path']}/superserve.json"] in mounted
    assert all((ROOT / source).exists() for source, _ in mounted)
    (port,) = compose()["prometheus"]["ports"]
    assert port.endswith(":9090")
