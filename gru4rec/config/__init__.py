"""Every setting of every job: its type, default, limits and meaning, in one place.

Plain dataclasses from the standard library, so that the engine can use them where nothing but torch, numpy and
pyarrow is installed; `gru4rec.cli` turns them into flags, reads TOML and checks the limits.
"""

from gru4rec.config.bench import Bench
from gru4rec.config.common import MODEL_NAME, Common, Tracking, setting
from gru4rec.config.evaluate import Ablate, Compare, Evaluate
from gru4rec.config.hyperparameters import PRESETS, PUBLISHED_LOSSES, Hyperparameters
from gru4rec.config.prepare import Prepare, Simulate, Simulation
from gru4rec.config.score import Score
from gru4rec.config.train import Train
from gru4rec.config.tune import Tune

__all__ = [
    "MODEL_NAME",
    "PRESETS",
    "PUBLISHED_LOSSES",
    "Ablate",
    "Bench",
    "Common",
    "Compare",
    "Evaluate",
    "Hyperparameters",
    "Prepare",
    "Score",
    "Simulate",
    "Simulation",
    "Tracking",
    "Train",
    "Tune",
    "setting",
]
