"""What MLflow keeps of a search: a run, and below it one of each trial that ended and one of each winner.

Each is kept once, whatever interrupted the job.
"""

from collections.abc import Mapping
from typing import Any

from gru4rec.sessions.prepared import Prepared
from gru4rec.tracking import runs
from gru4rec.tuning.trials import Trial

_PARENT, _NUMBER = "mlflow.parentRunId", "trial"
SEARCH, TRIAL = "search.run", "search.trial"  # tags of a winner's run, and of the version of its model


class Tracked:
    """Records trials below the search's run."""

    def __init__(self, run_id: str) -> None:
        import mlflow

        client = mlflow.MlflowClient()
        self._run_id = run_id
        self._experiment = client.get_run(run_id).info.experiment_id
        self._known: set[str] = set()
        token, half = None, []
        while True:
            found = client.search_runs([self._experiment], f"tags.`{_PARENT}` = '{run_id}'", page_token=token)
            of_trials = [run for run in found if _NUMBER in run.data.tags]  # a winner's is no trial's
            self._known |= {run.data.tags[_NUMBER] for run in of_trials if run.info.status != "RUNNING"}
            half += [run.info.run_id for run in of_trials if run.info.status == "RUNNING"]
            token = found.token
            if not token:
                break
        for one in half:  # the search was killed while it recorded this one: it is recorded anew
            client.delete_run(one)

    def trial(self, one: Trial) -> None:
        """Record a trial that ended."""
        if str(one.number) in self._known:
            return
        self._known.add(str(one.number))
        tags = {_PARENT: self._run_id, _NUMBER: str(one.number), "trial.status": one.status, "trial.why": one.why}
        run_id = runs.start_run(self._experiment, one.values, kind="trial", tags=tags, name=f"trial {one.number}")
        for epoch, value in enumerate(one.curve, start=1):
            runs.log_epoch(run_id, epoch, valid_metric=value)
        runs.finish(run_id, "FAILED" if one.status == "failed" else "FINISHED")


def run_of_winner(run_id: str, result: Mapping[str, Any], prepared: Prepared) -> str:
    """The id of the run of the search's winner, which is to hold its model, as `result` names it.

    A search that goes on may find a better one: each has a run of its own, below the search's. It is found again by
    its tags.
    """
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    number = str(result["best"]["trial"])
    found = client.search_runs([experiment], f"tags.`{SEARCH}` = '{run_id}' and tags.`{TRIAL}` = '{number}'")
    if found:
        return str(found[0].info.run_id)
    tags = {_PARENT: run_id, SEARCH: run_id, TRIAL: number}
    data = prepared.folder, prepared.fingerprint
    return runs.start_run(experiment, result["hyperparameters"], *data, "winner", tags, f"winner, trial {number}")


def finish(run_id: str, result: Mapping[str, Any], page: str) -> None:
    """Record the whole search with its run; its metrics at the step of the trials so far: it may go on with more."""
    import mlflow

    metrics, step = {"valid_metric": result["best"]["value"], **result["test"]["mean"]}, result["trials"]
    latest = mlflow.MlflowClient().get_run(run_id).data.metrics
    new = {
        key: value
        for key, value in metrics.items()
        if latest.get(key) != value or step not in runs.logged_steps(run_id, key)  # else a killed job has recorded it
    }
    runs.log_metrics(run_id, new, step)
    runs.log_json(run_id, result, "search.json")
    runs.log_text(run_id, page, "search.html")
