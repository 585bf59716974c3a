"""Models in the MLflow registry: a model folder goes in, a version of it comes out as a folder again."""

import atexit
import importlib.metadata
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gru4rec
from gru4rec import storage
from gru4rec.config import MODEL_NAME
from gru4rec.errors import InputError
from gru4rec.sessions.catalogue import is_text
from gru4rec.tracking import folder as model_folder
from gru4rec.tracking import runs

ARTIFACT = "model"
FURTHER = "further_training"  # artifact folder of a run: what nobody needs to recommend
_NOT_SERVED = ("evaluation", "training", "tuning")  # packages of this one
REQUIREMENTS = ("mlflow", "numpy", "pandas", "pyarrow", "safetensors", "torch")


def register(
    run_id: str,
    folder: str,
    model_name: str,
    metrics: Mapping[str, float] | None = None,
    data_fingerprint: str = "",
    tags: Mapping[str, str] | None = None,
    description: str = "",
) -> str:
    """Log the model folder with the run, record `metrics` of both, register it, and return the new version.

    `description` is the version's, in Markdown. `runs.connect` first. Logged is a pyfunc model from code (see
    pyfunc_model.py) with weights, settings, catalogue and card as its artifact and this package's source beside it;
    nothing is pickled. The optimizer's state is kept with the run.
    With an empty `model_name` the model is logged, not registered, and the result is empty. Called again for the same
    run, after whatever interrupted it, it does what is left to do: a run has one such model, one point of each metric,
    and one version of a name.
    """
    import mlflow

    client = mlflow.MlflowClient()
    if model_name:
        known = client.search_model_versions(f"name = '{_checked_name(model_name)}' and run_id = '{run_id}'")
        if known:
            return str(max(int(version.version) for version in known))
    logged = _logged(run_id) or _log(run_id, folder)
    if metrics and not logged.metrics:
        # The time is always the same: points that an interrupted call has recorded are not recorded twice.
        runs.log_metrics(run_id, metrics, model_id=logged.model_id, at_ms=logged.creation_timestamp)
    if not model_name:
        return ""
    if not client.search_registered_models(f"name = '{_checked_name(model_name)}'"):
        client.create_registered_model(model_name)
    version = client.create_model_version(
        model_name,
        source=f"models:/{logged.model_id}",
        run_id=run_id,
        tags={k: v for k, v in {"data_fingerprint": data_fingerprint, **(tags or {})}.items() if v},
        model_id=logged.model_id,
        description=description or None,
    )
    link = json.dumps([{"name": model_name, "version": version.version}])
    client.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": link})  # shown in the UI
    return str(version.version)


def _logged(run_id: str) -> Any:
    """The run's logged model; None where it has none. Models that were logged in part are deleted."""
    import mlflow

    client = mlflow.MlflowClient()
    wanted = f"source_run_id = '{run_id}' AND name = '{ARTIFACT}'"
    whole = None
    for model in client.search_logged_models([client.get_run(run_id).info.experiment_id], wanted):
        if model.status == mlflow.entities.LoggedModelStatus.READY:
            whole = model
        else:
            client.delete_logged_model(model.model_id)
    return whole


def _log(run_id: str, folder: str) -> Any:
    """Log the model folder with the run; the logged model.

    The optimizer's state, which is twice as large as the weights, stays with the run: a server does without.
    """
    import mlflow

    client = mlflow.MlflowClient()
    mlflow.set_experiment(experiment_id=client.get_run(run_id).info.experiment_id)
    loaded = model_folder.load(folder)
    with tempfile.TemporaryDirectory() as place:
        # Copies, so that the artifacts always have the same names, wherever the folder comes from.
        local, apart = os.path.join(place, ARTIFACT), os.path.join(place, FURTHER)
        os.mkdir(local)
        os.mkdir(apart)
        for name in storage.list_files(folder):
            into = apart if name == model_folder.OPTIMIZER else local
            Path(into, name).write_bytes(storage.read_bytes(storage.join(folder, name)))
        for name in os.listdir(apart):
            client.log_artifact(run_id, os.path.join(apart, name), FURTHER)
        imports = list(sys.path)
        logged = mlflow.models.Model.log(
            artifact_path=None,
            name=ARTIFACT,
            flavor=mlflow.pyfunc,
            run_id=run_id,
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={ARTIFACT: local},
            code_paths=[_code(place)],
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in REQUIREMENTS],
            signature=_signature(loaded),
            input_example=_example(loaded),
        )
        sys.path[:] = imports  # the example is tried on a copy, whose source folder stays on the path
    return client.get_logged_model(logged.model_id)


def _code(place: str) -> str:
    """A copy of this package's source in the folder `place`, without what nobody needs to recommend; its path."""
    package, copy = Path(gru4rec.__file__).parent, os.path.join(place, "code", gru4rec.__name__)
    left_out = [str(package / name) for name in _NOT_SERVED]

    def ignored(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if name == "__pycache__" or os.path.join(folder, name) in left_out]

    shutil.copytree(package, copy, ignore=ignored)
    return copy


def _checked_name(name: str) -> str:
    if not MODEL_NAME.fullmatch(name):
        raise InputError(f"--model-name {name}: letters, digits, '_', '-', '.' and blanks only")
    return name


def _signature(loaded: model_folder.LoadedModel) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, Array, ColSpec, DataType, ParamSchema, ParamSpec, Schema

    text = is_text(loaded.items.schema.field("item_id").type)
    items = ColSpec(Array(DataType.string if text else DataType.long), "items")
    session = ColSpec(AnyType(), "session_id", required=False)
    return ModelSignature(
        inputs=Schema([session, items]),
        outputs=Schema(
            [
                session,
                items,
                ColSpec(Array(DataType.float), "scores"),
                ColSpec(DataType.boolean, "fallback"),
            ]
        ),
        params=ParamSchema(
            [
                ParamSpec("k", DataType.long, 20),
                ParamSpec("exclude_seen", DataType.boolean, False),
                ParamSpec("exclude_items", DataType.string if text else DataType.long, [], shape=(-1,)),
            ]
        ),
    )


def _example(loaded: model_folder.LoadedModel) -> Any:
    import pandas as pd

    ids = loaded.items["item_id"].slice(0, 2).to_pylist()
    return pd.DataFrame({"session_id": ["a", "b"], "items": [ids, ids[:1]]})


def set_alias(model_name: str, version: str, alias: str) -> None:
    """Point `models:/model_name@alias` at a version."""
    import mlflow

    mlflow.MlflowClient().set_registered_model_alias(model_name, alias, version)


def alias_of(model_name: str, alias: str, tracking_uri: str = "") -> str:
    """The version that an alias means now; "" where there is no such alias."""
    import mlflow

    try:
        client = runs.mlflow_at(tracking_uri).MlflowClient()
        return str(client.get_registered_model(model_name).aliases.get(alias, ""))
    except mlflow.exceptions.MlflowException as error:
        raise InputError(f"{model_name}: no such registered model{_in(tracking_uri)}: {error}") from error


def remove_alias(model_name: str, alias: str) -> None:
    """Take an alias away; nothing happens where there is none."""
    import mlflow

    mlflow.MlflowClient().delete_registered_model_alias(model_name, alias)


def about(model: str, tracking_uri: str = "") -> dict[str, str]:
    """name, version, model_id and data_fingerprint of the version at `models:/NAME/VERSION`, "" where not known."""
    name, version = model.removeprefix("models:/").rsplit("/", 1)
    found = _open(model, tracking_uri).MlflowClient().get_model_version(name, version)
    return {
        "name": name,
        "version": version,
        "model_id": found.source.removeprefix("models:/") if found.source.startswith("models:/m-") else "",
        "data_fingerprint": found.tags.get("data_fingerprint", ""),
    }


def note(model_name: str, version: str, tags: Mapping[str, str], text: str) -> None:
    """Tag a version, and add a paragraph to its description."""
    import mlflow

    client = mlflow.MlflowClient()
    for key, value in tags.items():
        client.set_model_version_tag(model_name, version, key, value)
    before = client.get_model_version(model_name, version).description
    client.update_model_version(model_name, version, "\n\n".join(filter(None, [before, text])))


def resolve(model: str, tracking_uri: str = "") -> tuple[str, str | None]:
    """`model` with an alias or `latest` replaced by the version that it means now, and that version.

    A folder, `runs:/…` or `models:/m-…` comes back unchanged, with None. Raises InputError for a model,
    version or alias that does not exist.
    """
    if not model.startswith("models:/") or re.fullmatch(r"models:/+m-[0-9a-f]+", model):
        return model, None
    match = re.fullmatch(r"models:/+([^/@]+)(?:/([^/@]+)|@([^/@]+))", model)
    if match is None:
        raise InputError(f"{model}: write models:/NAME/VERSION or models:/NAME@ALIAS")
    name, version, alias = match.groups()
    if version is not None and not version.isdecimal() and version != "latest":
        raise InputError(f"{model}: {version} is not a version; write models:/NAME/VERSION or models:/NAME@ALIAS")
    mlflow = _open(model, tracking_uri)
    try:
        with runs.few_retries():
            client = mlflow.MlflowClient()
            if alias is not None:
                version = client.get_model_version_by_alias(name, alias).version
            elif version == "latest":
                known = client.search_model_versions(f"name = '{_checked_name(name)}'")
                if not known:
                    raise InputError(f"{model}: no such model{_in(tracking_uri)}")
                version = max(int(found.version) for found in known)
            else:
                client.get_model_version(name, version)
    except mlflow.exceptions.MlflowException as error:
        with runs.few_retries():
            there = _there(mlflow, name)
        raise InputError(f"{model}: no such model{_in(tracking_uri)}: {error}{there}") from error
    return f"models:/{name}/{version}", str(version)


def _there(mlflow: Any, name: str) -> str:
    """`; there are …`: the versions of a model with their aliases, or what models there are; empty if in doubt."""
    try:
        client = mlflow.MlflowClient()
        models = {found.name: found for found in client.search_registered_models()}
        if name not in models:
            return f"; there are the models: {' '.join(sorted(models)) or 'none'}"
        known = client.search_model_versions(f"name = '{_checked_name(name)}'")
        versions = " ".join(map(str, sorted(int(found.version) for found in known)[-20:]))
        aliases = ", ".join(f"{alias}: {version}" for alias, version in models[name].aliases.items())
        named = f"with the aliases {aliases}" if aliases else "without an alias (compare --promote gives one)"
        return f"; there are the versions {versions or 'none'}, {named}"
    except (mlflow.exceptions.MlflowException, InputError):
        return ""


def fetch(model: str, tracking_uri: str = "", optimizer: bool = False) -> str:
    """A model folder for `models:/…`, `runs:/…` (downloaded, until this process ends), or the folder itself.

    With `optimizer`, the optimizer's state is in it, where the model's run has kept that. Raises InputError where there
    is no such model, or it was not logged by this project.
    """
    if not model.startswith(("models:/", "runs:/")):
        return model
    mlflow = _open(model, tracking_uri)
    place = tempfile.mkdtemp(prefix="gru4rec-model-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    try:
        local = mlflow.artifacts.download_artifacts(artifact_uri=model, dst_path=place)
        about = mlflow.models.Model.load(local)  # reads MLmodel, runs nothing
        inside = os.path.join(local, about.flavors["python_function"]["artifacts"][ARTIFACT]["path"])
        if optimizer and about.run_id:
            _fetch_optimizer(about.run_id, inside)
    except (mlflow.exceptions.MlflowException, OSError) as error:
        raise InputError(f"{model}: cannot be read{_in(tracking_uri)}: {error}") from error
    except (KeyError, TypeError) as error:
        raise InputError(f"{model}: is not a GRU4Rec model of this project") from error
    return inside


def _fetch_optimizer(run_id: str, folder: str) -> None:
    """Put the optimizer's state that a run has kept into the folder of its model; nothing where it has kept none."""
    import mlflow

    path = f"{FURTHER}/{model_folder.OPTIMIZER}"
    if path in {found.path for found in mlflow.MlflowClient().list_artifacts(run_id, FURTHER)}:
        kept = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path, dst_path=os.path.dirname(folder))
        os.replace(kept, os.path.join(folder, model_folder.OPTIMIZER))


def _open(model: str, tracking_uri: str) -> Any:
    path = runs.sqlite_path(runs.address(tracking_uri))
    if path and not os.path.exists(path):
        raise InputError(
            f"{model}: there is no MLflow store at {path}; name it with --tracking-uri or MLFLOW_TRACKING_URI"
        )
    return runs.mlflow_at(tracking_uri)


def _in(tracking_uri: str) -> str:
    return f" in {storage.shown(runs.address(tracking_uri))}"
