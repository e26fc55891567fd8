"""Every manifest fits the operator's and Kubernetes' schemas, and keeps Ray's own rules."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

Document = dict[str, Any]

FOLDERS = [
    "base",
    "jobs",
    "overlays/cpu/cluster",
    "overlays/cpu/jobs",
    "overlays/gpu/cluster",
    "overlays/gpu/jobs",
]
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LONGEST_NAME = {"RayCluster": 53, "RayJob": 47}
GPU = "nvidia.com/gpu"


def clusters(documents: list[Document]) -> Iterator[Document]:
    for document in documents:
        if document["kind"] == "RayCluster":
            yield document["spec"]
        elif document["kind"] == "RayJob":
            yield document["spec"]["rayClusterSpec"]


def pods(documents: list[Document]) -> Iterator[Document]:
    """Pod templates of every Ray node and submitter."""
    for document in documents:
        if document["kind"] == "RayJob":
            yield document["spec"]["submitterPodTemplate"]["spec"]
    for cluster in clusters(documents):
        yield cluster["headGroupSpec"]["template"]["spec"]
        for group in cluster["workerGroupSpecs"]:
            yield group["template"]["spec"]


def containers(documents: list[Document]) -> Iterator[Document]:
    for pod in pods(documents):
        yield from pod["containers"]


@pytest.fixture(params=FOLDERS)
def documents(request: pytest.FixtureRequest, build: Callable[[str], list[Document]]) -> Any:
    return build(request.param)


def test_every_kustomization_is_checked(repository: Path) -> None:
    found = {p.parent.relative_to(repository / "k8s") for p in repository.rglob("k8s/**/kust*")}
    assert {str(path) for path in found} == set(FOLDERS)


def test_every_manifest_is_used(repository: Path) -> None:
    for path in (repository / "k8s").rglob("*.yaml"):
        if path.name != "kustomization.yaml":
            kustomization = (path.parent / "kustomization.yaml").read_text("utf-8")
            assert re.search(rf"[ /]{re.escape(path.name)}\b", kustomization), path


def test_schemas_are_kept(
    documents: list[Document], validate: Callable[[Document], list[str]]
) -> None:
    problems = {d["metadata"]["name"]: found for d in documents if (found := validate(d))}
    assert not problems


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("RayJob", "spec.entrypont", "python x.py"),
        ("RayJob", "spec.ttlSecondsAfterFinished", "600"),
        ("RayJob", "spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", 0),
        ("RayCluster", "spec.autoscalerOptions.upscalingMode", "Fast"),
        ("NetworkPolicy", "spec.podSelectors", {}),
        ("PersistentVolumeClaim", "spec.accessModes", "ReadWriteMany"),
    ],
)
def test_a_seeded_mistake_is_caught(
    build: Callable[[str], list[Document]],
    validate: Callable[[Document], list[str]],
    kind: str,
    path: str,
    value: Any,
) -> None:
    documents = build("base") + build("jobs")
    (document,) = (copy.deepcopy(d) for d in documents if d["kind"] == kind)
    assert validate(document) == []
    *parents, last = path.split(".")
    place = document
    for part in parents:
        place = place[part]
    place[last] = value
    assert len(validate(document)) == 1


def test_names_are_valid_and_short_enough(documents: list[Document]) -> None:
    for document in documents:
        name = document["metadata"]["name"]
        assert DNS_1035.fullmatch(name), name
        assert len(name) <= LONGEST_NAME.get(document["kind"], 63)
        if document["kind"] != "Namespace":
            assert document["metadata"]["namespace"] == "epitaxy"


def test_no_training_on_the_head(documents: list[Document]) -> None:
    for cluster in clusters(documents):
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_versions_agree(documents: list[Document], repository: Path) -> None:
    import epitaxy

    pins = (repository / "constraints.txt").read_text("utf-8")
    (ray,) = re.findall(r"^ray==(.+)$", pins, re.MULTILINE)
    for cluster in clusters(documents):
        assert cluster["rayVersion"] == ray
    for container in containers(documents):
        tag = container["image"].rpartition(":")[2]
        assert tag.removesuffix("-gpu") == f"{epitaxy.__version__}-ray{ray}"


def test_replicas_are_in_order(documents: list[Document]) -> None:
    for cluster in clusters(documents):
        for group in cluster["workerGroupSpecs"]:
            assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_tokens_are_required(documents: list[Document]) -> None:
    for cluster in clusters(documents):
        assert cluster["authOptions"] == {"mode": "token"}


def test_pods_are_confined(documents: list[Document]) -> None:
    for pod in pods(documents):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(documents):
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert set(container["resources"]) == {"requests", "limits"}


def test_every_mount_has_a_volume_and_every_claim_exists(
    documents: list[Document], build: Callable[[str], list[Document]]
) -> None:
    claims = {d["metadata"]["name"] for d in build("base") if d["kind"] == "PersistentVolumeClaim"}
    for pod in pods(documents):
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            for mount in container.get("volumeMounts", []):
                assert mount["name"] in volumes
        for volume in volumes.values():
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            assert claim is None or claim in claims


def test_gpus_are_asked_for_where_they_are(build: Callable[[str], list[Document]]) -> None:
    for kind in ("cluster", "jobs"):
        for cluster in clusters(build(f"overlays/gpu/{kind}")):
            for group in cluster["workerGroupSpecs"]:
                pod = group["template"]["spec"]
                assert pod["containers"][0]["resources"]["limits"][GPU] == "1"
                assert pod["containers"][0]["resources"]["requests"][GPU] == "1"
                assert GPU in {toleration["key"] for toleration in pod["tolerations"]}
                assert pod["nodeSelector"]
        texts = yaml.safe_dump_all(build(f"overlays/cpu/{kind}"))
        assert GPU not in texts
        assert "use_gpu" not in texts


def test_workers_have_shared_memory(documents: list[Document]) -> None:
    for cluster in clusters(documents):
        for group in cluster["workerGroupSpecs"]:
            pod = group["template"]["spec"]
            mounts = {m["mountPath"]: m["name"] for m in pod["containers"][0]["volumeMounts"]}
            (volume,) = (v for v in pod["volumes"] if v["name"] == mounts["/dev/shm"])
            assert volume["emptyDir"]["medium"] == "Memory"


def test_the_job_runs_on_the_pods_of_the_cluster(build: Callable[[str], list[Document]]) -> None:
    (standing,) = clusters(build("base"))
    (own,) = clusters(build("jobs"))
    standing, own = copy.deepcopy(standing), copy.deepcopy(own)
    for name in ("enableInTreeAutoscaling", "autoscalerOptions"):
        del standing[name]
    del standing["headGroupSpec"]["template"]["spec"]["automountServiceAccountToken"]
    for cluster in (standing, own):
        for name in ("replicas", "minReplicas", "maxReplicas"):
            del cluster["workerGroupSpecs"][0][name]
    assert own == standing


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_an_overlay_treats_cluster_and_job_alike(
    build: Callable[[str], list[Document]], overlay: str
) -> None:
    (standing,) = clusters(build(f"overlays/{overlay}/cluster"))
    (own,) = clusters(build(f"overlays/{overlay}/jobs"))
    worker = standing["workerGroupSpecs"][0]["template"]
    assert own["workerGroupSpecs"][0]["template"] == worker


def test_the_entrypoint_is_a_job_of_this_project(
    documents: list[Document], repository: Path
) -> None:
    for document in documents:
        if document["kind"] != "RayJob":
            continue
        python, script, *overrides = document["spec"]["entrypoint"].split()
        assert python == "python"
        assert (repository / script.removeprefix("/opt/epitaxy/")).is_file()
        values = dict(item.split("=", 1) for item in overrides)
        assert values["run.name"] == document["metadata"]["name"]
        for group in ("encoder", "objective", "compute"):
            config = repository / "platform/epitaxy/conf" / group / f"{values[group]}.yaml"
            assert config.is_file(), config
        (workers,) = document["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        assert int(values["compute.workers"]) <= workers["maxReplicas"]
        assert document["spec"]["submissionMode"] == "K8sJobMode"
        assert document["spec"]["shutdownAfterJobFinishes"] is True


def test_only_ray_the_submitter_and_the_operator_reach_ray(
    build: Callable[[str], list[Document]],
) -> None:
    (policy,) = (d["spec"] for d in build("base") if d["kind"] == "NetworkPolicy")
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    for rule in policy["ingress"]:
        assert rule["from"], "an empty `from` lets everybody in"
        assert all(peer["podSelector"]["matchLabels"] for peer in rule["from"])
    (job,) = build("jobs")
    label = job["spec"]["submitterPodTemplate"]["metadata"]["labels"]
    assert label == policy["ingress"][1]["from"][0]["podSelector"]["matchLabels"]


def test_the_image_is_pinned_and_does_not_run_as_root(repository: Path) -> None:
    lines = (repository / "k8s/image/Dockerfile").read_text("utf-8").splitlines()
    (base,) = (line.split()[1] for line in lines if line.startswith("FROM "))
    assert re.search(r":\d+\.\d+\.\d+-", base), base
    user = [line.split()[1] for line in lines if line.startswith("USER ")][-1]
    assert int(user) > 0
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ")]
    for name in (name for names in copied for name in names):
        assert (repository / name).exists()
        assert f"!{name}" in (repository / ".dockerignore").read_text("utf-8").splitlines()
