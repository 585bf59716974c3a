"""Every command of the READMEs that one machine can run, as it stands there, in the order in which a newcomer does.

The others need what one machine has not; each names it.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from gru4rec import cli, config
from gru4rec.config import Simulate, Train
from gru4rec.sessions.simulate import simulate
from gru4rec.training import run_folder

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {
    "docker ": "a container engine",
    "kubectl ": "Kubernetes",
    "--gpus": "GPUs",
    "ray up": "a cloud",
    "pytest": "is the tests themselves",
}
READMES = [
    str(path.relative_to(ROOT)) for part in ("", "cluster/", "gru4rec/*/") for path in ROOT.glob(f"{part}README.md")
]


def blocks(name: str) -> list[str]:
    """The commands of each fenced block."""
    return re.findall(r"^```bash\n(.*?)^```", (ROOT / name).read_text(), re.M | re.S)


def needs(block: str) -> list[str]:
    """What a block needs that this machine has not."""
    return [what for word, what in ELSEWHERE.items() if word in block]


@pytest.mark.parametrize(("name", "count"), [("README.md", 9), ("cluster/README.md", 2)])
def test_most_commands_can_be_run_here(name, count):
    assert sum(not needs(block) for block in blocks(name)) >= count


@pytest.mark.parametrize("name", READMES)
def test_every_job_that_is_named_takes_these_flags(name, tmp_path, monkeypatch):
    """In blocks and in the text: also what takes more than one machine, or hours."""
    monkeypatch.chdir(tmp_path)
    run_folder.begin(Train(run_name="RUN"), "abc", "data", "fingerprint")
    text = (ROOT / name).read_text().replace("\\\n", " ")
    given = re.findall(r"python jobs/(\w+)\.py([^`\n&]*)", text)
    assert given
    for job, flags in given:
        words = shlex.split(flags.partition("#")[0].partition(" | ")[0])
        if "--help" not in words:
            assert cli.parse(getattr(config, job.capitalize()), words)


@pytest.mark.parametrize("name", READMES)
def test_links_lead_somewhere(name):
    """To files, and to headings."""
    path = ROOT / name
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in link:
            continue
        file, _, heading = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        titles = re.findall(r"^#+ (.*)", target.read_text(), re.M) if target.suffix == ".md" else []
        known = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not heading or heading in known, link


def test_manifests_that_are_applied_are_there():
    for block in blocks("cluster/README.md"):
        for folder in re.findall(r"kubectl apply -k (\S+)", block):
            assert (ROOT / folder / "kustomization.yaml").is_file()
        for file in re.findall(r"(?:-f|ray up -y|ray down -y) (cluster/\S+)", block):
            assert (ROOT / file).is_file()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """(a copy of the project with a log of its own, the environment of a fresh virtual environment)."""
    place = tmp_path_factory.mktemp("readme")
    copied, venv = place / "project", place / "venv"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("the project's folder is no git repository: what belongs to it cannot be told")
    for name in filter(None, listed.stdout.splitlines()):
        if (ROOT / name).is_file():
            (copied / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copied / name)
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    inside = next((venv / "lib").iterdir()) / "site-packages"
    (inside / "installed.pth").write_text(
        sysconfig.get_paths()["purelib"] + "\n"
    )  # what is installed need not be again
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_", "PYTHON"))}
    path = os.pathsep.join([str(venv / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    home = place / "home"
    home.mkdir()
    environment |= {"PATH": path, "HOME": str(home), "VIRTUAL_ENV": str(venv), "RAY_worker_niceness": "0"}
    return copied, environment


def run(block: str, project) -> str:
    """What the block prints; what it leaves running in the background is ended after it."""
    folder, environment = project
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        code = None
        out, errors = process.communicate(timeout=1500) if not _in_background(block) else _first(process)
        code = process.wait(30)
    finally:
        if code != 0 or _in_background(block):
            os.killpg(process.pid, signal.SIGTERM)
    assert code == 0, f"{block}\n{out[-3000:]}\n{errors[-3000:]}"
    return out


def _in_background(block: str) -> bool:
    return re.search(r"&$", block, re.M) is not None


def _first(process: subprocess.Popen) -> tuple[str, str]:
    """What the shell itself printed: those in the background would hold the pipes open."""
    process.wait(1500)
    os.set_blocking(process.stdout.fileno(), False)
    os.set_blocking(process.stderr.fileno(), False)
    return process.stdout.read() or "", process.stderr.read() or ""


@pytest.fixture
def night_bucket(bucket):
    """(client, environment variables) of the bucket `bucket`, which the README's night reads and writes."""
    client, _ = bucket
    client.create_bucket(Bucket="bucket")
    key = {"AWS_ACCESS_KEY_ID": "who", "AWS_SECRET_ACCESS_KEY": "hush", "AWS_DEFAULT_REGION": "us-east-1"}
    return client, key | {"AWS_ENDPOINT_URL": client.meta.endpoint_url}


def results(printed: str) -> list[dict]:
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]


@pytest.mark.slow
@pytest.mark.ray
def test_the_commands_of_the_readme(project, night_bucket, tmp_path):
    folder, _ = project
    given = [block for block in blocks("README.md") if not needs(block)]

    def take(word: str, **more: str) -> str:
        (found,) = [block for block in given if word in block]
        given.remove(found)
        return run(found, (folder, project[1] | more))

    (first,) = results(take("pip install -e ."))
    assert first["model_version"] == "1"
    assert first["recall_at_20"] > first["baselines"]["markov"]["recall_at_20"]

    printed = take("jobs/simulate.py")
    assert (folder / "clicks").is_dir(), printed
    prepared, trained, evaluated, scored, compared = results(take("jobs/evaluate.py"))
    # what the README says of them
    assert [prepared[key] for key in ("rows_in", "train_sessions", "items")] == [100_676, 16_578, 1_000]
    assert [trained["recall_at_20"], trained["mrr_at_20"]] == pytest.approx([0.549, 0.111], abs=0.01)
    assert trained["baselines"]["markov"]["recall_at_20"] == pytest.approx(0.404, abs=0.001)
    assert scored["sessions_out"] == 1_226
    assert trained["model_version"] == "2"
    assert evaluated["predictions"] == trained["predictions"]
    assert scored["sessions_in"] == scored["sessions_out"]
    assert compared["promoted"]

    (recipe,) = re.findall(
        r"^```python\n(import duckdb.*?\bcopy\b.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S
    )
    run(f"python - <<'EOF'\n{recipe}\nEOF", project)
    client, access = night_bucket
    client.upload_file(str(folder / "sessions.parquet"), "bucket", "sessions/tonight.parquet")
    (night,) = results(take("--date 2026-11-22", **access))
    assert night["sessions_in"] == night["sessions_out"] == 20_000
    stored = client.list_objects_v2(Bucket="bucket", Prefix="recommendations/date=2026-11-22/")["Contents"]
    assert "recommendations/date=2026-11-22/manifest.json" in [one["Key"] for one in stored]

    (answer,) = results(take("mlflow models serve"))
    assert len(answer["predictions"][0]["items"]) == 5

    (folder / "logs").mkdir()
    more = Simulate(out=str(tmp_path / "more"), sessions=200, items=1000, simulation_seed=8)
    simulate(more, more.out)
    for number, path in enumerate(sorted(Path(more.out).glob("*.parquet"))):
        shutil.copy(path, folder / "logs" / f"tonight-{number}.parquet")
    (again,) = results(take("--base data"))
    assert again["sessions"] > prepared["sessions"]
    shutil.copytree(folder / "data", folder / "newer")
    (warm,) = results(take("--warm-start"))
    assert len(warm["loss"]) == 2
    run("python jobs/train.py --data newer --epochs 1 --run-name RUN", project)
    assert results(take("--resume RUN"))

    # a search with a log so small that a hundred trials are a matter of minutes
    few = Simulate(out=str(tmp_path / "few"), sessions=300, items=50)
    simulate(few, few.out)
    (made,) = Path(few.out).glob("*.parquet")
    shutil.copy(made, folder / "clicks.parquet")
    shutil.rmtree(folder / "data")
    *_, searched = results(take("jobs/tune.py"))
    assert len(searched["trials"]) if isinstance(searched["trials"], list) else searched["trials"]
    assert given == []


@pytest.mark.slow
@pytest.mark.ray
def test_the_commands_of_the_guide_to_clusters(project):
    folder, _ = project
    run("pip install -q -e .", project)
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    head, rollback = [block for block in blocks("cluster/README.md") if not needs(block)]
    for port in (6379, 8265, 52365):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)), f"the guide needs port {port}, which is taken"
    (trained,) = results(run(head, project))
    assert len(trained["loss"]) == 2
    assert (folder / "gru4rec-runs").is_dir()
    run(rollback, project)
    alias = "import mlflow; print(mlflow.MlflowClient().get_model_version_by_alias('gru4rec', 'champion').version)"
    assert run(f'python -c "{alias}"', project).splitlines()[-1] == "1"
