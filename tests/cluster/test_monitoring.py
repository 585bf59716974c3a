"""What Prometheus watches, the alerts and the dashboard; by its own `promtool`, where there is one."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from cluster import kustomize, schema
from gru4rec import ray_metrics

KUBERNETES = Path(__file__).resolve().parents[2] / "cluster" / "kubernetes"
FOLDERS = ["monitoring", "monitoring-raycronjob"]
promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (of Prometheus) is not installed")


def of_kind(folder: str, kind: str) -> dict:
    """The spec of the operator's kind."""
    (found,) = [one for one in kustomize.build(KUBERNETES / folder) if one["kind"] == kind]
    assert found["apiVersion"] == "monitoring.coreos.com/v1"
    assert found["metadata"]["namespace"] == "gru4rec"
    return found["spec"]


def written(folder: str, place: Path) -> Path:
    """The rules as Prometheus reads them, without the wrapping of the operator."""
    path = place / "rules.yaml"
    path.write_text(yaml.safe_dump(of_kind(folder, "PrometheusRule")))
    return path


def run(*command: str) -> str:
    done = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("folder", FOLDERS)
def test_kustomize_makes_the_same_of_it(folder):
    command = ["kubectl", "kustomize", str(KUBERNETES / folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = sorted(kustomize.build(KUBERNETES / folder), key=lambda one: one["kind"])
    assert made == sorted(yaml.safe_load_all(done.stdout), key=lambda one: one["kind"])


def test_the_pods_and_the_port_are_those_of_rays_nodes():
    watched = of_kind("monitoring", "PodMonitor")
    assert watched["selector"] == {"matchLabels": {"ray.io/is-ray-node": "yes"}}
    ports = [endpoint["port"] for endpoint in watched["podMetricsEndpoints"]]
    made = kustomize.build(KUBERNETES / "overlays" / "cpu")
    for job in (one for one in made if one["kind"] == "RayJob"):
        cluster = job["spec"]["rayClusterSpec"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            (container,) = group["template"]["spec"]["containers"]
            named = {port["name"]: port["containerPort"] for port in container["ports"]}
            assert [named[port] for port in ports] == [8080]
    # and Prometheus is let in there
    (policy,) = [one for one in made if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "ray"]
    assert {"protocol": "TCP", "port": 8080} in policy["spec"]["ingress"][-1]["ports"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_alerts_go_by_series_that_there_are(folder):
    ours = {f"ray_{name}" for name in ray_metrics.TRAINING | ray_metrics.SCORING}
    others = {"kube_job_failed", "kube_cronjob_status_last_successful_time", "kuberay_job_deployment_status"}
    seen = set()
    for group in of_kind(folder, "PrometheusRule")["groups"]:
        for rule in group["rules"]:
            seen |= set(re.findall(r"\b(?:ray|kube|kuberay)_\w+", rule["expr"]))
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert rule["annotations"]["summary"]
    assert seen <= ours | others
    assert seen & ours


def dashboard() -> dict:
    (found,) = [one for one in kustomize.build(KUBERNETES / "monitoring") if one["kind"] == "ConfigMap"]
    assert schema.problems(found) == []
    (content,) = found["data"].values()
    return json.loads(content)


def expressions() -> list[str]:
    """What the panels ask Prometheus for, with the board's variable filled in."""
    asked = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    return [one.replace("$run", ".*") for one in asked]


def test_the_dashboard_shows_each_of_our_series_but_what_gates_measured():
    """A gate's figure is there for seconds: it is for MLflow."""
    shown = set(re.findall(r"\bray_(gru4rec_\w+)", " ".join(expressions())))
    assert shown == (ray_metrics.TRAINING | ray_metrics.SCORING).keys() - {"gru4rec_score_gate"}
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}


@promtool
def test_prometheus_takes_what_the_dashboard_asks(tmp_path):
    rules = [{"record": f"asked:{number}", "expr": asked} for number, asked in enumerate(expressions())]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules found" in run("check", "rules", str(tmp_path / "rules.yaml"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_they_are_about_the_night_that_there_is(folder):
    """Of the CronJob's Jobs or the RayCronJob's RayJobs, by the names that these get."""
    overlay = "cpu-raycronjob" if folder.endswith("raycronjob") else "cpu"
    (night,) = [
        one
        for one in kustomize.build(KUBERNETES / "overlays" / overlay)
        if one["kind"] in ("CronJob", "RayCronJob") and one["metadata"]["name"] == "score"
    ]
    (failed, *_) = of_kind(folder, "PrometheusRule")["groups"][0]["rules"]
    (name,) = re.findall(r'name=~"([^"]+)"', failed["expr"])
    a_night, by_hand = {"CronJob": ("score-29412345", "score-again"), "RayCronJob": ("score-x7k2p", "score-a-ray")}[
        night["kind"]
    ]
    assert re.fullmatch(name, a_night)
    assert not re.fullmatch(name, by_hand)
    assert schema.cron_problem(night["spec"]["schedule"]) == ""
    assert night["spec"]["schedule"].split()[2:] == ["*", "*", "*"], "every day: 26 hours without one are too many"


@promtool
@pytest.mark.parametrize("folder", FOLDERS)
def test_prometheus_takes_the_rules(folder, tmp_path):
    assert "SUCCESS" in run("check", "rules", str(written(folder, tmp_path)))


def expected(rules: Path, series: dict[str, str], alerts: dict[str, dict[str, list[dict]]]) -> str:
    """The outcome of a test of `rules`: at each time, the labels with which each alert fires."""
    checks = [
        {"eval_time": when, "alertname": name, "exp_alerts": [{"exp_labels": labels} for labels in found]}
        for when, by_name in alerts.items()
        for name, found in by_name.items()
    ]
    for check in checks:
        for alert in check["exp_alerts"]:
            alert["exp_annotations"] = alert["exp_labels"].pop("annotations")
    test = {
        "rule_files": [str(rules)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": checks,
            }
        ],
    }
    path = rules.parent / "test.yaml"
    path.write_text(yaml.safe_dump(test))
    return run("test", "rules", str(path))


@promtool
def test_when_a_cronjobs_nights_alert(tmp_path):
    last = 'kube_cronjob_status_last_successful_time{namespace="gru4rec", cronjob="score"}'
    failed = 'kube_job_failed{namespace="gru4rec", condition="true", job_name="score-%s"}'
    age = 'ray_gru4rec_train_checkpoint_age_seconds{run="nov", node="%s"}'
    # the first night succeeds at 30 h, none does after it; a night fails at 10 h, a run by hand, too
    series = {
        last: "_x1800 108000x4000",
        failed % "29412345": "0x600 1x60 0x4000",
        failed % "again": "1x5000",
        age % "a": "0+60x50 0+60x120",
        age % "b": "0x5000",
    }
    loud = {"severity": "critical"}
    told = {
        "annotations": {"summary": "score-29412345 failed: the lists of the night before are still what readers find"},
        "namespace": "gru4rec",
        "condition": "true",
        "job_name": "score-29412345",
        **loud,
    }
    of_night = {"namespace": "gru4rec", "cronjob": "score", **loud}
    none_yet = {**of_night, "annotations": {"summary": "No night has succeeded yet"}}
    missing = {**of_night, "annotations": {"summary": "No night has succeeded for 1d 2h 10m 0s"}}
    still = {
        "run": "nov",
        "severity": "warning",
        "annotations": {"summary": "Training nov is without a new checkpoint for 1h 1m 0s"},
    }
    expected(
        written("monitoring", tmp_path),
        series,
        {
            "50m": {"NightFailed": [], "NightMissing": [], "TrainingStandsStill": []},
            "112m": {"TrainingStandsStill": [still]},
            "605m": {"NightFailed": [told]},
            "700m": {"NightFailed": []},
            "25h": {"NoNightYet": []},
            "27h": {"NoNightYet": [none_yet], "NightMissing": []},
            "31h": {"NoNightYet": []},
            "55h": {"NightMissing": []},
            "3370m": {"NightMissing": [missing]},
        },
    )


@promtool
def test_when_a_raycronjobs_nights_alert(tmp_path):
    state = 'kuberay_job_deployment_status{namespace="gru4rec", name="score-%s", deployment_status="%s"}'
    series = {  # one night that ends well and stays to be seen, one that fails a day later and is deleted, then none
        state % ("x7k2p", "Running"): "_x60 1x30",
        state % ("x7k2p", "Complete"): "_x91 1x6000",
        state % ("9qq9q", "Running"): "_x1500 1x30",
        state % ("9qq9q", "Failed"): "_x1531 1x100",
    }
    loud = {"namespace": "gru4rec", "severity": "critical"}
    told = {
        "annotations": {"summary": "score-9qq9q failed: the lists of the night before are still what readers find"},
        "name": "score-9qq9q",
        "deployment_status": "Failed",
        **loud,
    }
    missing = {**loud, "deployment_status": "Running", "annotations": {"summary": "No night has run for 26 hours"}}
    expected(
        written("monitoring-raycronjob", tmp_path),
        series,
        {
            "100m": {"NightFailed": [], "NightMissing": []},
            "1540m": {"NightFailed": [told], "NightMissing": []},
            "50h": {"NightFailed": [], "NightMissing": []},
            "52h": {"NightMissing": [missing]},
        },
    )
