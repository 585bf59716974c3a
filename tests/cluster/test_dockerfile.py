"""The Dockerfile, without a container engine: its form, and its install steps in a clean virtual environment."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "cluster" / "Dockerfile"
KNOWN = {"ARG", "FROM", "ENV", "RUN", "COPY", "WORKDIR", "USER", "CMD"}


def steps() -> list[tuple[str, str]]:
    """(instruction, argument) of each, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]  # type: ignore[misc]


def test_its_form():
    given = steps()
    assert {name for name, _ in given} <= KNOWN
    order = [name for name, _ in given]
    assert order[:2] == ["ARG", "FROM"]
    # what runs is not root, and nothing is done as root after that
    assert given[-2:] == [("USER", "10001:10001"), ("CMD", '["python", "jobs/train.py", "--help"]')]
    for name, argument in given:
        if name == "FROM":
            assert re.fullmatch(r"python:\$\{PYTHON\}-slim-bookworm", argument)
        if name == "RUN":
            assert "curl" not in argument
            assert "sudo" not in argument
            assert "apt-get install" not in argument or "--no-install-recommends" in argument
            assert "apt-get update" not in argument or "rm -rf /var/lib/apt/lists/*" in argument
            assert "pip install" not in argument or "-e " not in argument
    declared = {argument.partition("=")[0] for name, argument in given if name == "ARG"}
    used = set(re.findall(r"\$\{(\w+)\}", DOCKERFILE.read_text()))
    assert used == declared


def test_what_is_copied_is_there_and_goes_to_the_builder():
    passed = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().split()
    assert "*" in passed
    for name, argument in steps():
        if name == "COPY":
            for source in argument.split()[:-1]:
                assert (ROOT / source).exists()
                assert f"!{source}" in passed


def test_the_code_comes_after_the_dependencies():
    """So that another line of code does not fetch gigabytes again."""
    order = [argument for name, argument in steps() if name in ("RUN", "COPY")]
    code = next(i for i, argument in enumerate(order) if argument.startswith("gru4rec "))
    installs = [i for i, argument in enumerate(order) if "pip install" in argument]
    assert sum(i > code for i in installs) == 1


@pytest.mark.slow
def test_its_install_steps_in_a_clean_virtual_environment(tmp_path):
    """Every step that runs pip, in the order of the file, below a folder in place of /; then the image's CMD."""
    venv, place = tmp_path / "venv", tmp_path / "opt"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    place.mkdir()
    environment = {key: value for key, value in os.environ.items() if key.startswith(("PIP_", "SSL_", "HTTP", "http"))}
    environment |= {"PATH": f"{venv}/bin:/usr/bin:/bin", "HOME": str(tmp_path)}
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    given = {"PYTHON": version, "TORCH_INDEX": "https://pypi.org/simple"}  # torch's own index may not be within reach
    for name, argument in steps():
        if name == "ARG":
            key, _, value = argument.partition("=")
            environment[key] = given.get(key, value)
        elif name == "COPY":
            *sources, _ = argument.split()
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, place / source, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / source, place)
        elif name == "RUN" and "pip install" in argument:
            run(argument, place, environment)
    shown = run("python jobs/train.py --help && mlflow --version && ray --version", place, environment)
    assert "--workers" in shown
    for key in ("RAY", "MLFLOW"):
        assert environment[key] in shown
    code = "import gru4rec; print(gru4rec.__file__)"
    assert str(venv) in run(f'cd / && python -c "{code}"', place, environment)


def run(command: str, place: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-euc", command], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout
