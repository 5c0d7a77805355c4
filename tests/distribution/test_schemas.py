"""Manifests and other files that somebody else reads are what their readers' schemas want."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
SCHEMAS = Path(__file__).parent / "schemas"

#: Values of a chart and the list of files are no objects of Kubernetes.
NO_OBJECTS = {"prometheus-adapter-values.yaml", "kustomization.yaml"}


def manifests() -> list[Any]:
    """Every object of deploy/kubernetes."""
    return [
        pytest.param(one, id=f"{path.stem}-{number}")
        for path in sorted(KUBERNETES.glob("*.yaml"))
        if path.name not in NO_OBJECTS
        for number, one in enumerate(yaml.safe_load_all(path.read_bytes()))
    ]


def validate(manifest: dict[str, Any]) -> None:
    """Against the schema of its kind: Kubernetes' own, or what this folder knows of an operator's."""
    own = SCHEMAS / f"{manifest['kind']}.json"
    if own.exists():
        Draft202012Validator(json.loads(own.read_bytes())).validate(manifest)
    else:
        kubernetes_validate.validate(manifest, "1.33", strict=True)


@pytest.mark.parametrize("manifest", manifests())
def test_manifests_fit_their_schema(manifest: dict[str, Any]) -> None:
    """Unknown fields are refused, too."""
    validate(manifest)


@pytest.mark.parametrize("manifest", manifests())
def test_a_field_too_many_is_found(manifest: dict[str, Any]) -> None:
    """So that the test above can fail."""
    wrong = {**manifest, "spec": {**manifest["spec"], "replica": 1}}
    with pytest.raises(Exception, match="replica"):
        validate(wrong)


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [("vendor.compose-spec", "compose.yaml"), ("vendor.github-workflows", ".github/workflows/*.yml")],
)
def test_files_fit_their_published_schema(schema: str, pattern: str) -> None:
    """Of Compose and of GitHub's workflows, which check-jsonschema brings along."""
    files = sorted(map(str, ROOT.glob(pattern)))
    assert files
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *files],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
