"""Strict schemas of the operator, and a small stand-in for ``kubectl kustomize``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

Document = dict[str, Any]

KUSTOMIZATION_KEYS = {"apiVersion", "kind", "namespace", "resources", "patches"}
WITHOUT_NAMESPACE = {"Namespace"}
KUBERNETES = "1.35"


@pytest.fixture(scope="session")
def validate(k8s_schemas_dir: Path) -> Callable[[Document], list[str]]:
    """Returns what is wrong with a manifest, field by field; unknown fields are wrong."""
    validators = dict(_operator_validators(k8s_schemas_dir))

    def check(document: Document) -> list[str]:
        key = (document["apiVersion"], document["kind"])
        if key in validators:
            errors = validators[key].iter_errors(document)
            return [f"{error.json_path}: {error.message}" for error in errors]
        return _core_problems(document)

    return check


@pytest.fixture(scope="session")
def build(repository: Path) -> Callable[[str], list[Document]]:
    """Returns the manifests that a folder under ``k8s/`` stands for."""
    return lambda folder: kustomize(repository / "k8s" / folder)


def _operator_validators(folder: Path) -> Iterator[tuple[tuple[str, str], Any]]:
    for kind in ("rayclusters", "rayjobs"):
        text = (folder / "crds" / f"ray.io_{kind}.yaml").read_text("utf-8")
        spec = yaml.load(text, yaml.CSafeLoader)["spec"]
        for version in spec["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            schema["properties"]["metadata"] = {"type": "object"}
            key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
            yield key, jsonschema.Draft202012Validator(_strict(schema))


def _strict(schema: Any) -> Any:
    """Closes objects: an API server would drop an unknown field without a word."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: _strict(value) for key, value in schema.items()}
    open_ended = result.get("x-kubernetes-preserve-unknown-fields")
    if "properties" in result and "additionalProperties" not in result and not open_ended:
        result["additionalProperties"] = False
    if result.get("x-kubernetes-int-or-string") is True:
        result["type"] = ["integer", "string"]
    if result.get("nullable") is True and isinstance(result.get("type"), str):
        result["type"] = [result["type"], "null"]
    return result


def _core_problems(document: Document) -> list[str]:
    import kubernetes_validate

    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [str(error)]
    return []


def kustomize(folder: Path) -> list[Document]:
    """Resolves resources, namespaces and JSON 6902 patches; refuses what it does not know."""
    (kustomization,) = _documents(folder / "kustomization.yaml")
    unknown = set(kustomization) - KUSTOMIZATION_KEYS
    assert not unknown, f"{folder}/kustomization.yaml: unknown keys {unknown}"
    documents: list[Document] = []
    for name in kustomization["resources"]:
        path = folder / name
        documents += kustomize(path) if path.is_dir() else _documents(path)
    for document in documents:
        if "namespace" in kustomization and document["kind"] not in WITHOUT_NAMESPACE:
            document["metadata"]["namespace"] = kustomization["namespace"]
    for patch in kustomization.get("patches", []):
        documents = _patched(documents, patch, folder)
    return documents


def _documents(path: Path) -> list[Document]:
    return list(yaml.load_all(path.read_text("utf-8"), yaml.CSafeLoader))


def _patched(documents: list[Document], patch: Document, folder: Path) -> list[Document]:
    assert set(patch) == {"path", "target"}, patch
    assert set(patch["target"]) == {"kind"}, patch
    kind = patch["target"]["kind"]
    assert any(d["kind"] == kind for d in documents), f"{folder}: no {kind} to patch"
    (operations,) = _documents(folder / patch["path"])
    return [json_patch(d, operations) if d["kind"] == kind else d for d in documents]


def json_patch(document: Document, operations: list[Document]) -> Document:
    """Applies ``add`` and ``replace`` of RFC 6902."""
    document = copy.deepcopy(document)
    for operation in operations:
        assert set(operation) == {"op", "path", "value"}, operation
        *parents, last = operation["path"].strip("/").split("/")
        place: Any = document
        for part in parents:
            place = place[int(part) if isinstance(place, list) else part]
        assert operation["op"] in ("add", "replace"), operation
        if operation["op"] == "replace":
            assert last in place, f"nothing to replace at {operation['path']}"
        assert isinstance(place, dict), operation
        place[last] = operation["value"]
    return document
