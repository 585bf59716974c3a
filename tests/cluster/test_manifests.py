"""The Kubernetes manifests: right by schema, whole, and as careful as they say."""

import re
import shutil
import subprocess
import tomllib
import zoneinfo
from pathlib import Path

import pytest
import yaml

from cluster import kustomize, schema
from gru4rec import cli, config

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "cluster" / "kubernetes"
JOBS = {
    "prepare": config.Prepare,
    "train": config.Train,
    "tune": config.Tune,
    "compare": config.Compare,
    "score": config.Score,
}
STARTERS = ("CronJob score/", "CronJob run/")  # their pods start RayJobs, and wait
OVERLAYS = ["cpu", "gpu", "cpu-raycronjob", "gpu-raycronjob"]


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request):
    return KUBERNETES / "overlays" / request.param


@pytest.fixture(scope="module")
def manifests(overlay):
    return kustomize.build(overlay)


def of_kind(manifests, kind: str) -> dict[str, dict]:
    return {one["metadata"]["name"]: one for one in manifests if one["kind"] == kind}


def rayjobs(manifests) -> dict[str, dict]:
    """The spec of each, with that in the RayCronJob."""
    found = {name: one["spec"] for name, one in of_kind(manifests, "RayJob").items()}
    nights = of_kind(manifests, "RayCronJob").values()
    return found | {f"{one['metadata']['name']} at night": one["spec"]["jobTemplate"] for one in nights}


def pods(manifests) -> dict[str, dict]:
    """The spec of every pod, by where it stands."""
    found = {}

    def look(value, where: str) -> None:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if key == "spec" and isinstance(inner, dict) and "containers" in inner:
                found[where] = inner
            elif isinstance(inner, (dict, list)):
                look(inner, f"{where}/{key}")

    for one in manifests:
        look(one, f"{one['kind']} {one['metadata']['name']}")
    return found


def test_every_manifest_is_right_by_schema(manifests):
    assert [line for one in manifests for line in schema.problems(one)] == []


def test_the_schemas_find_what_is_wrong(manifests):
    (job,) = [one for one in manifests if one["kind"] == "RayJob" and one["metadata"]["name"] == "train"]

    def found(path: str, value) -> str:
        wrong = yaml.safe_load(yaml.safe_dump(job))
        place = wrong
        *inner, last = path.split("/")
        for key in inner:
            place = place[int(key)] if isinstance(place, list) else place[key]
        place[last] = value
        return " ".join(schema.problems(wrong))

    assert "spec/entryPoint: unknown" in found("spec/entryPoint", "x")
    assert "integer" in found("spec/backoffLimit", "3")
    assert "one of" in found("spec/rayClusterSpec/authOptions/mode", "on")
    assert "a map of strings" in found("spec/rayClusterSpec/headGroupSpec/rayStartParams/num-cpus", 0)
    assert "readonlyRootFilesystem" in found(
        "spec/rayClusterSpec/headGroupSpec/template/spec/containers/0/securityContext/readonlyRootFilesystem", True
    )
    assert schema.cron_problem("30 2 * *")
    assert schema.cron_problem("60 2 * * *")
    assert schema.cron_problem("*/0 2 * * *")
    assert not schema.cron_problem("*/15 2-4 1,15 * 1-5")


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_makes_the_same_of_it(overlay, manifests):
    done = subprocess.run(["kubectl", "kustomize", str(overlay)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    def sorted_by_name(them):
        return sorted(them, key=lambda one: (one["kind"], one["metadata"]["name"]))

    assert sorted_by_name(manifests) == sorted_by_name(yaml.safe_load_all(done.stdout))


def test_nothing_is_left_over():
    """Each file is used by a kustomization, and what is referred to is there."""
    assert sorted(path.name for path in (KUBERNETES / "overlays").iterdir()) == sorted(OVERLAYS)
    for rules in KUBERNETES.rglob("kustomization.yaml"):
        text = rules.read_text()
        for path in rules.parent.glob("*.*"):
            assert path == rules or path.name in text, f"{path} is not used"


def test_entrypoints_are_jobs_with_flags_that_these_know(manifests):
    settings = of_kind(manifests, "ConfigMap")["settings"]["data"]
    specs = rayjobs(manifests)
    assert JOBS.keys() <= specs.keys()
    for name, spec in specs.items():
        # As the submitter's shell takes it apart, with what its environment has there.
        command = f"for word in {spec['entrypoint']}; do printf '%s\\n' \"$word\"; done"
        shell = {**settings, "PATH": "/usr/bin:/bin"}
        done = subprocess.run(["bash", "-euc", command], env=shell, capture_output=True, text=True, check=True)
        python, script, *flags = done.stdout.splitlines()
        assert python == "python"
        assert script == f"/opt/gru4rec/jobs/{name.split()[0]}.py"
        assert (ROOT / "jobs" / Path(script).name).is_file()
        parsed = cli.parse(JOBS[name.split()[0]], flags)
        assert vars(parsed).get("run_name", "RUN_NAME") == "RUN_NAME"
        places = [vars(parsed).get(where, "") for where in ("storage", "data", "out", "sessions", "report")]
        assert all(place.startswith("s3://") for place in places if isinstance(place, str) and place)
        fits(parsed, spec["rayClusterSpec"]["workerGroupSpecs"][0])


def fits(parsed, group: dict) -> None:
    """The workers that the job asks for have room in the fewest pods, or where those grow in number, in the most."""
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    cpus, gpus = int(limits["cpu"]), int(limits.get("nvidia.com/gpu", 0))
    if isinstance(parsed, config.Train):
        assert parsed.gpus == (gpus > 0)
        least, most = parsed.worker_range
        assert least <= group["minReplicas"] * (gpus if parsed.gpus else cpus // parsed.threads)
        assert most <= group["maxReplicas"] * (gpus if parsed.gpus else cpus // parsed.threads)
    if isinstance(parsed, config.Tune):
        room = min(cpus // parsed.threads, gpus / parsed.gpus_per_trial if gpus else cpus)
        assert 0 < parsed.parallel <= group["maxReplicas"] * room
    if isinstance(parsed, config.Score):
        assert (parsed.gpus_per_actor > 0) == (gpus > 0)


def test_rayjobs_end_and_are_tried_again(manifests):
    for name, spec in rayjobs(manifests).items():
        assert spec["suspend"] == ("night" not in name)
        assert spec["shutdownAfterJobFinishes"]
        assert 0 < spec["ttlSecondsAfterFinished"] <= 3600
        assert 0 < spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]
        assert spec["backoffLimit"] >= 1
        cluster = spec["rayClusterSpec"]
        assert cluster["authOptions"] == {"mode": "token"}
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        (group,) = cluster["workerGroupSpecs"]
        assert 0 < group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        grows = group["minReplicas"] < group["maxReplicas"]
        assert grows == cluster.get("enableInTreeAutoscaling", False) == (name == "tune")


def test_pods_are_locked_up(manifests):
    found = pods(manifests)
    assert len(found) >= 5 * 3 + 3
    for where, pod in found.items():
        user = pod["securityContext"]
        assert user["runAsNonRoot"] is True, where
        assert user["runAsUser"] > 0
        assert user["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["priorityClassName"] == ("gru4rec-search" if "tune" in where and "Group" in where else "gru4rec")
        token = pod["automountServiceAccountToken"]
        assert token == (where.startswith(STARTERS) or ("tune" in where and "head" in where)), where
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            locked = container["securityContext"]
            assert locked["readOnlyRootFilesystem"] is True, where
            assert locked["allowPrivilegeEscalation"] is False
            assert locked["capabilities"] == {"drop": ["ALL"]}
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys() <= resources["limits"].keys()
            for mount in container["volumeMounts"]:
                volume = volumes.get(mount["name"], {"claim": True})
                assert volume.get("emptyDir", {"sizeLimit": "1Gi"})["sizeLimit"], "no volume without an end"
            for variable in container.get("env", []):
                assert not re.search("PASSWORD|SECRET|TOKEN", variable["name"]) or "value" not in variable, where


def test_disks_are_asked_for(manifests):
    """A pod gets a node whose disk has room for what it may write, and is not evicted for what its volumes hold."""
    for where, pod in pods(manifests).items():
        empty = [volume["emptyDir"] for volume in pod.get("volumes", []) if "emptyDir" in volume]
        most = sum(gibibytes(one["sizeLimit"]) for one in empty if one.get("medium") != "Memory")
        resources = pod["containers"][0]["resources"]
        if most:
            limit = gibibytes(resources["limits"]["ephemeral-storage"])
            assert most < limit, where
            assert 0.4 * limit <= gibibytes(resources["requests"]["ephemeral-storage"]) <= most


def gibibytes(size: str) -> float:
    return float(size[:-2]) * {"Gi": 1, "Mi": 2**-10}[size[-2:]]


def test_ray_has_room_for_its_object_store(manifests):
    for where, pod in pods(manifests).items():
        if "GroupSpec" not in where:
            continue
        shm = {volume["name"]: volume for volume in pod["volumes"]}["shm"]["emptyDir"]
        memory = pod["containers"][0]["resources"]["limits"]["memory"]
        assert shm["medium"] == "Memory"
        assert 0.3 * float(memory.removesuffix("Gi")) < float(shm["sizeLimit"].removesuffix("Gi"))
        mounts = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert {"/tmp", "/dev/shm"} <= mounts  # noqa: S108


def test_only_workers_are_on_spot_nodes(manifests):
    for where, pod in pods(manifests).items():
        if "workerGroupSpecs" in where:
            assert any("spot" in str(toleration) for toleration in pod["tolerations"])
            assert "affinity" not in pod
        elif not where.startswith(STARTERS):  # where another pod takes its place at any time
            required = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            (term,) = required["nodeSelectorTerms"]
            assert {rule["operator"] for rule in term["matchExpressions"]} == {"NotIn", "DoesNotExist"}


def test_nobody_moves_what_would_begin_again(manifests):
    for spec in rayjobs(manifests).values():
        cluster = spec["rayClusterSpec"]
        for template in (cluster["headGroupSpec"]["template"], spec["submitterPodTemplate"]):
            assert template["metadata"]["annotations"] == {
                "karpenter.sh/do-not-disrupt": "true",
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
            }
        assert "annotations" not in cluster["workerGroupSpecs"][0]["template"]["metadata"]


def test_the_night_is_started_once(manifests):
    nights = of_kind(manifests, "CronJob") | of_kind(manifests, "RayCronJob")
    night, by_hand = nights["score"]["spec"], nights["run"]["spec"]
    assert schema.cron_problem(night["schedule"]) == ""
    assert night["timeZone"] in zoneinfo.available_timezones()
    if nights["score"]["kind"] == "CronJob":
        assert night["concurrencyPolicy"] == "Forbid"
        job = night["jobTemplate"]["spec"]
        assert job["template"]["spec"]["restartPolicy"] == "Never"
        assert {**job, "activeDeadlineSeconds": 0} == {**by_hand["jobTemplate"]["spec"], "activeDeadlineSeconds": 0}
        assert job["activeDeadlineSeconds"] > longest(rayjobs(manifests)["score"])
    assert by_hand["suspend"] is True
    assert by_hand["jobTemplate"]["spec"]["activeDeadlineSeconds"] > max(map(longest, rayjobs(manifests).values()))


def longest(spec: dict) -> int:
    """Seconds that a RayJob may take: KubeRay counts each try anew."""
    return (spec["backoffLimit"] + 1) * spec["activeDeadlineSeconds"]


def test_what_is_referred_to_is_there(manifests):
    """Service accounts, priority classes, config maps; the secrets are made by hand, as the README says."""
    there = {(one["kind"], one["metadata"]["name"]) for one in manifests}
    guide = (ROOT / "cluster" / "README.md").read_text()
    for where, pod in pods(manifests).items():
        assert ("PriorityClass", pod["priorityClassName"]) in there
        assert ("ServiceAccount", pod.get("serviceAccountName", "gru4rec")) in there
        text = str(pod)
        for name in re.findall(r"'configMap(?:Ref)?': \{'name': '([^']+)'", text):
            assert ("ConfigMap", name) in there, where
        for name in re.findall(r"'secret(?:Key)?Ref': \{(?:'key': '\w+', )?'name': '([^']+)'", text):
            assert f"create secret generic {name} " in guide, name
    for policy in of_kind(manifests, "NetworkPolicy").values():
        assert policy["spec"]["policyTypes"]
    assert of_kind(manifests, "NetworkPolicy")["nothing-else"]["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }


def test_mlflow_answers_by_the_names_it_is_called_by(manifests):
    """MLflow refuses requests whose Host it was not told (status 403)."""
    from mlflow.server import security_utils

    (server,) = of_kind(manifests, "Deployment")["mlflow"]["spec"]["template"]["spec"]["containers"]
    (hosts,) = [arg.partition("=")[2].split(",") for arg in server["args"] if arg.startswith("--allowed-hosts=")]
    uri = of_kind(manifests, "ConfigMap")["settings"]["data"]["MLFLOW_TRACKING_URI"]
    for host in (uri.removeprefix("http://"), "localhost:5000"):
        assert security_utils.is_allowed_host_header(hosts, host)
    assert not security_utils.is_allowed_host_header(hosts, "elsewhere.example.com")


def test_mlflow_runs_no_jobs_of_its_own(manifests):
    """Its server would start eight processes for them, and take jobs from whoever reaches it."""
    from mlflow.environment_variables import MLFLOW_SERVER_ENABLE_JOB_EXECUTION

    (server,) = of_kind(manifests, "Deployment")["mlflow"]["spec"]["template"]["spec"]["containers"]
    assert {"name": MLFLOW_SERVER_ENABLE_JOB_EXECUTION.name, "value": "false"} in server["env"]


def test_the_database_is_migrated_by_the_image_that_serves_it(manifests):
    (server,) = of_kind(manifests, "Deployment")["mlflow"]["spec"]["template"]["spec"]["containers"]
    upgrade = of_kind(manifests, "CronJob")["mlflow-upgrade"]["spec"]
    assert upgrade["suspend"] is True
    template = upgrade["jobTemplate"]["spec"]["template"]
    (container,) = template["spec"]["containers"]
    variables = {one["name"]: one for one in server["env"]}
    assert container["image"] == server["image"]
    assert container["command"] == ["mlflow", "db", "upgrade", variables["MLFLOW_BACKEND_STORE_URI"]["value"]]
    assert variables["PGPASSWORD"] in container["env"]
    # It reaches Postgres, and no service takes it for the server.
    name = template["metadata"]["labels"]["app.kubernetes.io/name"]
    assert name != of_kind(manifests, "Service")["mlflow"]["spec"]["selector"]["app.kubernetes.io/name"]
    policies = of_kind(manifests, "NetworkPolicy")
    assert name in str(policies["postgres"]["spec"]["ingress"])
    assert name in str(policies["to-postgres"]["spec"]["podSelector"])


def test_kuberays_own_labels_are_left_to_it(manifests):
    """The service of a RayJob finds its head by the name that KubeRay gives it."""
    for spec in rayjobs(manifests).values():
        cluster = spec["rayClusterSpec"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert "app.kubernetes.io/name" not in group["template"]["metadata"]["labels"]


def test_the_night_is_the_rayjob_score(overlay, manifests):
    """A RayCronJob has what the overlay made of it: its image, and GPUs where there are some."""
    nights = [one["spec"]["jobTemplate"] for one in of_kind(manifests, "RayCronJob").values()]
    assert len(nights) == overlay.name.endswith("-raycronjob")
    assert ("CronJob", "score") not in {(one["kind"], one["metadata"]["name"]) for one in manifests} or not nights
    for night in nights:
        assert {**night, "suspend": True} == of_kind(manifests, "RayJob")["score"]["spec"]
        assert ("nvidia.com/gpu" in str(night)) == overlay.name.startswith("gpu")


def test_versions_are_those_of_the_image(manifests):
    dockerfile = (ROOT / "cluster" / "Dockerfile").read_text()
    built = dict(re.findall(r"^ARG (\w+)=(\S+)$", dockerfile, re.M))
    assert {spec["rayClusterSpec"]["rayVersion"] for spec in rayjobs(manifests).values()} == {built["RAY"]}
    for path in (ROOT / "cluster" / "ray-up").iterdir():
        for package in ("ray", "torch", "mlflow"):
            assert f" {package}=={built[package.upper()]}" in path.read_text()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {c["image"] for pod in pods(manifests).values() for c in pod["containers"] if "gru4rec" in c["image"]}
    assert len(images) == 1
    assert images.pop().rpartition(":")[2].startswith(f"{version}-")
