"""Settings of tune."""

from dataclasses import dataclass
from typing import Literal

from gru4rec.config.common import Common, Tracking, check_model_name, check_run_names, setting


@dataclass(frozen=True)
class Tune(Tracking, Common):
    """Search hyperparameters on the validation split; train the best anew with several seeds, and test that once."""

    data: str = setting("", "Prepared folder with a validation split (prepare with --valid-days).")
    space: str = setting(
        "cross-entropy",
        "What is searched: a TOML file, or one of the spaces of the published settings, cross-entropy and bpr-max. "
        "gru4rec/tuning/space.py says how one is written.",
    )
    trials: int = setting(100, "Trials.", ge=1)
    hours: float = setting(
        0.0,
        "Hours after which no more trials are begun, even if there were fewer than --trials: those that run come to "
        "their end, and the best is trained anew. 0: no limit. --resume goes on with what is left, for as long again.",
        ge=0,
    )
    algorithm: Literal["random", "tpe", "star"] = setting(
        "random",
        "What is tried next: points at random, those of a tree-structured Parzen estimator (tpe), or, after 20 at "
        "random, one parameter at a time from the best point (star).",
    )
    scheduler: Literal["none", "asha", "median"] = setting(
        "none",
        "Trials that are stopped early: none; by asynchronous successive halving after 1, 3, 9, … times --grace epochs "
        "(asha), each time all but the best third; or those below the median of the others.",
    )
    grace: int = setting(
        2,
        "Epochs before a trial can be stopped. After the first, those that learn fast look better than they are.",
        ge=1,
    )
    metric: Literal["mrr_at_20", "recall_at_20"] = setting("mrr_at_20", "What is to be best on the validation split.")
    epochs: int = setting(10, "Most epochs of a trial.", ge=1)
    search_seed: int = setting(1, "Seed of the points that are tried.", ge=0, lt=2**32)
    parallel: int = setting(0, "Trials at a time; 0: as many as the cluster has CPUs (GPUs) for.", ge=0)
    threads: int = setting(1, "CPU threads of a trial.", ge=1)
    gpus_per_trial: float = setting(0.0, "GPUs (also fractions, to share one) of a trial.", ge=0)
    pack_gpus: int = setting(
        0,
        "Most trials that share a GPU: before the search begins, the space's largest point is tried on one, and as "
        "many share it as its memory has room for; 0: --gpus-per-trial says.",
        ge=0,
        le=64,
    )
    seeds: tuple[int, ...] = setting(
        (20, 21, 22),
        "Seeds with which the best point is trained on training and validation split; trials are with the first.",
        min_length=1,
    )
    run_name: str = setting(
        "", "Name of the search, below which it is kept; the same name again goes on with it. Default: MLflow's run id."
    )
    resume: str = setting(
        "",
        "Go on with the search of this name, with its settings. --storage and --tracking-uri are not kept: give them "
        "again.",
    )
    storage: str = setting("gru4rec-runs", "Folder for searches; on a cluster one that all nodes reach.")
    model_name: str = setting(
        "gru4rec",
        "Name of the registered model (letters, digits, '_', '-', '.' and blanks); empty: do not register.",
    )

    def __post_init__(self) -> None:
        """Raises ValueError for settings that contradict each other."""
        check_run_names(self.run_name, self.resume)
        check_model_name(self.model_name)
        if self.pack_gpus and self.gpus_per_trial:
            raise ValueError("--pack-gpus: measures what --gpus-per-trial gives; leave one of them out, or set it to 0")
        for seed in self.seeds:
            if not 0 <= seed < 2**32:
                raise ValueError(f"--seeds: each is at least 0 and below 2^32, got {seed}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"--seeds: each may be there once, got {' '.join(map(str, self.seeds))}")
