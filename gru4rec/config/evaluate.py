"""Settings of evaluate, compare and ablate."""

from dataclasses import dataclass
from typing import Literal

from gru4rec.config.common import REQUIRED, Common, Tracking, measuring_workers, setting


@dataclass(frozen=True)
class Evaluate(Tracking, Common):
    """Rank the whole catalogue at every prediction of a split, and report metrics with intervals."""

    model: str = setting("", "Model folder or MLflow URI (models:/gru4rec/1, models:/gru4rec@champion).")
    data: str = setting(REQUIRED, "Prepared folder.")
    split: Literal["test", "valid", "train"] = setting("test", "Split to evaluate on.")
    baselines: tuple[Literal["pop", "s-pop", "item-knn", "bpr-mf", "markov", "v-sknn"], ...] = setting(
        (),
        "Baselines to put beside the model, learnt from the training split: most popular items (pop), and those of the "
        "session first (s-pop); item-to-item similarity (item-knn), matrix factorisation (bpr-mf), first-order Markov "
        "chain (markov), similar past sessions (v-sknn). gru4rec/evaluation/README.md defines each.",
    )
    ties: Literal["standard", "conservative", "median"] = setting(
        "conservative",
        "Items that score the same as the target count for it (standard), against it (conservative), or half (median).",
    )
    relevant: Literal["next", "rest"] = setting(
        "next", "What is to be predicted: the next click, or every item that the session still clicks (rest)."
    )
    cutoffs: tuple[int, ...] = setting(
        (1, 5, 10, 20), "Cut-offs of the metrics; 20 is always among them.", min_length=1
    )
    out: str = setting("", "Folder for what each session gave, as Parquet, a folder a model; empty: none.")
    report: str = setting("", "Report, an HTML page; empty: with the MLflow run alone.")
    workers: int = measuring_workers()
    gpus_per_worker: float = setting(0.0, "GPUs (also fractions) of a worker.", ge=0)
    threads: int = setting(0, "CPU threads of this process; 0: all. A worker has one.", ge=0)

    def __post_init__(self) -> None:
        if min(self.cutoffs) < 1:
            raise ValueError(f"--cutoffs: must be at least 1, got {min(self.cutoffs)}")


@dataclass(frozen=True)
class Compare(Tracking, Common):
    """Compare model versions and baselines on the same data, and promote the better version."""

    models: tuple[str, ...] = setting(
        REQUIRED, "Model folders or MLflow URIs (models:/gru4rec/2, models:/gru4rec@champion).", min_length=1
    )
    data: str = setting(REQUIRED, "Prepared folder.")
    split: Literal["test", "valid"] = setting("test", "Split to compare on.")
    baselines: tuple[Literal["pop", "s-pop", "item-knn", "bpr-mf", "markov", "v-sknn"], ...] = setting(
        (), "Baselines to put beside the models."
    )
    ties: Literal["standard", "conservative", "median"] = setting(
        "conservative",
        "Items that score the same as the target count for it (standard), against it (conservative), or half (median).",
    )
    metric: Literal["mrr_at_20", "recall_at_20", "ndcg_at_20"] = setting(
        "mrr_at_20", "Metric that decides, on the champion and on the challenger."
    )
    margin: float = setting(
        0.01,
        "A version has to beat the champion's metric by more than this share of it, with significance: trainings that "
        "differ in their seed alone differ by half a percent (standard deviation).",
        ge=0,
    )
    level: float = setting(0.05, "Level of significance, over all versions that are compared.", gt=0, lt=1)
    promote: bool = setting(
        False,
        "Point the alias 'champion' at the best version if the evidence is there; without, say what would be done.",
    )
    min_coverage: float = setting(
        0.8, "Guard: lists show at least this share of the items that the champion's lists show.", ge=0
    )
    max_unknown_share: float = setting(
        0.1, "Guard: highest share of test clicks on unknown items; 0: none.", ge=0, le=1
    )
    max_latency_ms: float = setting(0.0, "Guard: highest median time of one session's list, ms; 0: none.", ge=0)
    max_model_mb: float = setting(0.0, "Guard: largest model folder, MB; 0: none.", ge=0)
    report: str = setting("comparison.html", "Report, an HTML page; empty: none.")
    workers: int = measuring_workers()
    threads: int = setting(0, "CPU threads of this process; 0: all. A worker has one.", ge=0)


@dataclass(frozen=True)
class Ablate(Tracking, Common):
    """Train losses × units on one prepared folder, each with the settings published for it, baselines beside."""

    data: str = setting(REQUIRED, "Prepared folder.")
    losses: tuple[Literal["cross-entropy", "bpr-max", "top1-max", "bpr", "top1"], ...] = setting(
        ("top1", "bpr", "cross-entropy", "top1-max", "bpr-max"), "Losses to compare.", min_length=1
    )
    units: tuple[int, ...] = setting((100,), "Units of the recurrent layer to compare.", min_length=1)
    baselines: tuple[Literal["pop", "s-pop", "item-knn", "bpr-mf", "markov", "v-sknn"], ...] = setting(
        ("pop", "s-pop", "item-knn", "bpr-mf", "markov", "v-sknn"), "Baselines to put beside them."
    )
    epochs: int = setting(10, "Passes over the training sessions.", ge=1)
    seed: int = setting(20, "Seed of all random numbers.", ge=0, lt=2**32)
    gpus: bool = setting(False, "A GPU for each training.")
    max_failures: int = setting(2, "Times that a training is begun again when its machine is lost.", ge=0)
    out: str = setting("ablation.md", "The table, as Markdown; empty: none.")
