"""What settings are made of, and those that several jobs have."""

import re
from dataclasses import dataclass, field
from typing import Any


def setting(default: Any, help: str, **limits: Any) -> Any:
    """A dataclass field with its help text and its limits (`gt`, `ge`, `lt`, `le`, `min_length`)."""
    metadata = {"help": help, "limits": limits}
    if isinstance(default, type(...)):
        return field(kw_only=True, metadata=metadata)
    return field(default=default, kw_only=True, metadata=metadata)


REQUIRED = ...
MODEL_NAME = re.compile(r"[\w.\- ]+")
"""What a registered model may be called; the registry is asked for it in quotes."""


@dataclass(frozen=True)
class Common:
    """Settings that every job has."""

    verbose: bool = setting(False, "Show what Ray, MLflow and the other libraries say themselves.")
    debug: bool = setting(False, "On an error, show the traceback as well.")


@dataclass(frozen=True)
class Tracking:
    """Where runs and models are recorded."""

    tracking_uri: str = setting("", "MLflow tracking URI; default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db.")
    experiment: str = setting("gru4rec", "MLflow experiment.")


def check_model_name(name: str) -> None:
    """Raises ValueError for a name that the registry could not be asked for."""
    if name and not MODEL_NAME.fullmatch(name):
        raise ValueError(f"--model-name: letters, digits, '_', '-', '.' and blanks only, got {name!r}")


def check_run_names(run_name: str, resume: str) -> None:
    """Raises ValueError for a name that cannot be that of a folder, and for two names."""
    for name, value in (("run-name", run_name), ("resume", resume)):
        if value and not re.fullmatch(r"[\w][\w.\-]*", value):
            raise ValueError(f"--{name}: letters, digits, '_', '-' and '.' only, got {value!r}")
    if resume and run_name and resume != run_name:
        raise ValueError("--resume and --run-name: give one of them")


def measuring_workers() -> Any:
    """The setting `workers` of jobs that rank a split."""
    return setting(
        0,
        "Ray tasks that measure at a time; 0: this process alone for what takes it up to a minute or so, else as many "
        "as the cluster has room for. The figures are the same.",
        ge=0,
    )
