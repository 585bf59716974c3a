"""The import rule: the engine needs torch, numpy and pyarrow, and nothing else."""

import subprocess
import sys

ENGINE = """
import gru4rec.model.encode, gru4rec.model.losses, gru4rec.model.negatives, gru4rec.model.network
import gru4rec.training.trainer, gru4rec.training.exchange
import gru4rec.evaluation.ranking, gru4rec.evaluation.baselines
import gru4rec.scoring.topk, gru4rec.scoring.bench_engine
"""

ALLOWED_ONLY = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    \"\"\"Nothing from site-packages but torch, numpy, pyarrow and what torch itself needs.\"\"\"
    refused = ("ray", "mlflow", "pydantic", "safetensors", "rich", "pandas", "numba", "scipy")

    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in self.refused:
            raise ModuleNotFoundError(f"{name} is not installed here")
        return None

sys.meta_path.insert(0, Refuse())
"""

TRAIN = """
import numpy as np
from gru4rec.config import Hyperparameters
from gru4rec.model.network import initialise
from gru4rec.sessions.prepared import Sessions
from gru4rec.training.trainer import Trainer
from gru4rec.evaluation import ranking

rng = np.random.default_rng(0)
sessions = Sessions(np.arange(0, 401, 4), rng.integers(0, 30, 400).astype(np.int32))
model = initialise(Hyperparameters(layers=(8,), n_sample=16), 30)
epoch = Trainer(model, np.bincount(sessions.items, minlength=30)).train_epoch(0, [[sessions]])
metrics = ranking.evaluate(model, sessions, (20,))
assert epoch.events == metrics.predictions == 300
"""


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_engine_loads_neither_ray_nor_mlflow():
    check = "import sys; assert not {'ray', 'mlflow', 'pydantic', 'pandas'} & set(sys.modules), sorted(sys.modules)"
    done = python(ENGINE + check)
    assert done.returncode == 0, done.stderr


def test_engine_trains_and_evaluates_with_torch_numpy_and_pyarrow_alone():
    done = python(ALLOWED_ONLY + ENGINE + TRAIN)
    assert done.returncode == 0, done.stderr


FIRST_CALLS = """
import torch

made, exp = [], torch.exp
torch.exp = lambda x: made.append((x.dtype, x.numel())) or exp(x)
import gru4rec.model
assert made == [(torch.float32, 8), (torch.float64, 8)], made
"""


def test_one_thread_makes_the_first_call_of_vector_mathematics():
    """Two at once would now and then get figures of low accuracy; see gru4rec/model/__init__.py."""
    done = python(FIRST_CALLS)
    assert done.returncode == 0, done.stderr
