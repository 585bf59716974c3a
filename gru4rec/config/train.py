"""Settings of train."""

import re
from dataclasses import dataclass
from typing import Literal

from gru4rec.config.common import Common, Tracking, check_model_name, check_run_names, setting
from gru4rec.config.hyperparameters import Hyperparameters
from gru4rec.config.prepare import Simulation

_BLOCK_STEPS = 64  # steps that the engine lays out at once


@dataclass(frozen=True)
class Train(Hyperparameters, Simulation, Tracking, Common):
    """Train GRU4Rec, evaluate it, and register it as a model version."""

    data: str = setting("", "Prepared folder (see prepare.py). None: simulate a click log, prepare it and train on it.")
    preset: Literal["", "rsc15", "yoochoose", "rees46", "coveo", "retailrocket", "diginetica"] = setting(
        "", "Start from the settings of a published result; the settings file and flags override them."
    )
    warm_start: str = setting(
        "",
        "Go on from this model (folder or MLflow URI): items that it knows keep weights and optimizer state, new ones "
        "begin, vanished ones go.",
    )
    workers: int | str = setting(
        1,
        "Ray Train workers, each with batch-size lanes; or MIN:MAX, as many as the cluster has room for: it goes on "
        "with fewer when a node is lost, and with more when one joins.",
    )
    resize_seconds: float = setting(
        60.0,
        "With MIN:MAX workers, seconds between two looks whether there is room for more; more workers go on from the "
        "start of the epoch.",
        ge=0,
    )
    sync_every: int = setting(
        1,
        "Steps between two exchanges of the workers: 1 is exact; more, for slow networks, lets each step alone and "
        "averages every so many (a divisor or a multiple of 64).",
        ge=1,
    )
    run_name: str = setting(
        "", "Name of the run: the same command goes on with it if it was interrupted; default: MLflow's run id."
    )
    resume: str = setting(
        "",
        "Go on with this run (its --run-name; where it has none, its MLflow run id) with its own settings; flags may "
        "change how, not what. --storage and --tracking-uri are not kept: give them again.",
    )
    checkpoint_minutes: float = setting(
        10.0, "Minutes between two checkpoints within an epoch; 0: at the ends of epochs only.", ge=0
    )
    checkpoint_steps: int = setting(
        0, "Steps between two checkpoints within an epoch, in whole blocks of 64; 0: by the clock.", ge=0
    )
    keep_checkpoints: int = setting(
        2, "Checkpoints to keep: so many within epochs, and so many at their ends. Two survive a damaged one.", ge=1
    )
    max_failures: int = setting(5, "Give up after so many failures in a row without a new checkpoint.", ge=0)
    stall_timeout: float = setting(
        600.0,
        "Seconds without any progress after which a worker counts as dead; 0: wait forever. A checkpoint must be "
        "written in this time.",
        ge=0,
    )
    gpus: bool = setting(False, "One GPU for each worker.")
    threads: int = setting(1, "CPU threads of a worker (small models are slower with more).", ge=1)
    storage: str = setting(
        "gru4rec-runs",
        "Folder, reached by all nodes, for what runs leave behind: simulated data, checkpoints, models.",
    )
    model_name: str = setting(
        "gru4rec",
        "Name of the registered model (letters, digits, '_', '-', '.' and blanks); empty: do not register.",
    )
    model_out: str = setting("", "Also write the model folder here; a finished run copies its model here.")
    cutoffs: tuple[int, ...] = setting((5, 10, 20), "Cut-offs of the metrics; 20 is always among them.", min_length=1)

    def __post_init__(self) -> None:
        """Raises ValueError for settings that contradict each other."""
        super().__post_init__()
        least, most = self.worker_range
        if not 1 <= least <= most:
            raise ValueError(f"--workers: a number from 1 on, or MIN:MAX, got {self.workers}")
        if _BLOCK_STEPS % self.sync_every and self.sync_every % _BLOCK_STEPS:
            raise ValueError(f"--sync-every: must divide {_BLOCK_STEPS} or be a multiple of it, got {self.sync_every}")
        check_run_names(self.run_name, self.resume)
        if self.resume and self.preset:
            raise ValueError(f"--preset {self.preset}: a run goes on with its own settings; leave it out")
        check_model_name(self.model_name)

    @property
    def worker_range(self) -> tuple[int, int]:
        """Fewest and most workers; (0, 0) where the setting is neither a number nor MIN:MAX."""
        found = re.fullmatch(r"(\d+)(?::(\d+))?", str(self.workers))
        return (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
