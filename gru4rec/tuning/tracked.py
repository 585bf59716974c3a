"""What MLflow keeps of a search: a run, and in it one of each trial that ended, once, whatever interrupted the job."""

from collections.abc import Mapping
from typing import Any

from gru4rec.tracking import runs
from gru4rec.tuning.trials import Trial

_PARENT, _NUMBER = "mlflow.parentRunId", "trial"


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
            self._known |= {run.data.tags.get(_NUMBER, "") for run in found if run.info.status != "RUNNING"}
            half += [run.info.run_id for run in found if run.info.status == "RUNNING"]
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


def finish(run_id: str, result: Mapping[str, Any], page: str) -> None:
    """Record the whole search with its run."""
    tested = result["test"]
    runs.log_missing(run_id, {"valid_metric": result["best"]["value"], **tested["mean"]})
    runs.log_json(run_id, result, "search.json")
    runs.log_text(run_id, page, "search.html")
