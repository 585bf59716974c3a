"""What is left to others of a finished training: the card, the registered version, and in MLflow figures and a page."""

from collections.abc import Mapping, Sequence

from gru4rec.tracking import folder as model_folder
from gru4rec.tracking import model_card, registry, runs
from gru4rec.tracking.model_card import MODEL, Facts
from gru4rec.training import training_report
from gru4rec.training.progress import Finished

PAGE = "training.html"


def record(facts: Facts, trained: Finished, model: str, run_id: str) -> str:
    """Write the card into the folder `model`, record all figures with the run, register; the new version.

    `runs.connect` first. Called again, after whatever interrupted it, it does what is left to do: no figure is recorded
    twice. The figures are `recall_at_20` with `recall_at_20_low` and `recall_at_20_high`, the ends of its 95 %
    interval, and so on; those of the baselines, at 20 alone, are `markov/recall_at_20`, …
    """
    model_folder.write_card(model, model_card.text(facts))
    version = registry.register(
        run_id,
        model,
        facts.model_name,
        _with_intervals(trained.metrics, facts.intervals.get(MODEL, {})),
        facts.summary["fingerprint"],
        description=model_card.summary(facts),
    )
    others = {name: metrics for name, metrics in facts.metrics.items() if name != MODEL}
    at_20 = {f"{name}/{key}": of[key] for name, of in others.items() for key in of if key.endswith("_at_20")}
    runs.log_missing(run_id, at_20)
    runs.log_text(run_id, training_report.page(facts, trained), PAGE)
    return version


def _with_intervals(metrics: Mapping[str, float], intervals: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The metrics and their ends, under names that stand side by side in any sorted list."""
    found: dict[str, float] = {}
    for key, value in metrics.items():
        found[key] = value
        if key in intervals:
            found[f"{key}_low"], found[f"{key}_high"] = intervals[key]
    return found
