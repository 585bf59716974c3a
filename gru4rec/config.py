"""Every setting of every job: its type, default, limits and meaning, in one place.

Plain dataclasses from the standard library, so that the engine can use them where nothing but torch, numpy and
pyarrow is installed; `gru4rec.cli` turns them into flags, reads TOML and checks the limits.
"""

import datetime
import re
from dataclasses import dataclass, field
from typing import Any, Literal


def setting(default: Any, help: str, **limits: Any) -> Any:
    """A dataclass field with its help text and its limits (`gt`, `ge`, `lt`, `le`, `min_length`)."""
    metadata = {"help": help, "limits": limits}
    if isinstance(default, type(...)):
        return field(kw_only=True, metadata=metadata)
    return field(default=default, kw_only=True, metadata=metadata)


REQUIRED = ...
MODEL_NAME = re.compile(r"[\w.\- ]+")
"""What a registered model may be called; the registry is asked for it in quotes."""
_BLOCK_STEPS = 64  # steps that the engine lays out at once


@dataclass(frozen=True)
class Common:
    """Settings that every job has."""

    verbose: bool = setting(False, "Show what Ray, MLflow and the other libraries say themselves.")
    debug: bool = setting(False, "On an error, show the traceback as well.")


@dataclass(frozen=True)
class Hyperparameters:
    """What defines a model and its training; the names are the reference's own."""

    loss: Literal["cross-entropy", "bpr-max", "top1-max", "bpr", "top1", "full-cross-entropy"] = setting(
        "cross-entropy",
        "Training loss: cross-entropy over the sampled items, BPR-max or TOP1-max (Hidasi & Karatzoglou, CIKM 2018); "
        "BPR or TOP1, with its score regularisation (Hidasi et al., ICLR 2016); full-cross-entropy: over all items, "
        "for small catalogues.",
    )
    cell: Literal["gru", "lstm", "rnn"] = setting(
        "gru",
        "Recurrent cell: GRU (Cho et al., EMNLP 2014), LSTM (Hochreiter & Schmidhuber 1997) or vanilla RNN (Elman "
        "1990); compared in section 4 of Hidasi et al., ICLR 2016.",
    )
    layers: tuple[int, ...] = setting((100,), "Units of each recurrent layer.", min_length=1)
    input_to_all_layers: bool = setting(
        False, "Feed the item input to every recurrent layer, not to the first alone (ICLR 2016, figure 1)."
    )
    feed_forward: tuple[int, ...] = setting(
        (), "Units of feed-forward layers (tanh) between the last recurrent layer and the scores (ICLR 2016, figure 1)."
    )
    embedding: Literal["tied", "separate", "one-hot"] = setting(
        "tied",
        "Item input: 'tied' looks up the rows that also score the items (constrained embedding, CIKM 2018); 'separate' "
        "has an embedding of its own; 'one-hot' looks up the rows of the first layer's input weights (ICLR 2016).",
    )
    embedding_size: int = setting(
        0, "Width of the 'separate' embedding; 0: the units of the first recurrent layer.", ge=0
    )
    final_act: Literal["auto", "linear", "tanh", "relu", "leaky-relu", "elu", "selu"] = setting(
        "auto",
        "Activation of the scores in training; 'auto' is ELU for BPR-max (CIKM 2018) and linear otherwise. Items are "
        "ranked by the value before it.",
    )
    elu_param: float = setting(
        0.5, "Alpha of ELU for scores below 0 (Clevert et al., ICLR 2016); 0, with 'auto' alone, is linear.", ge=0
    )
    leaky_slope: float = setting(0.01, "Slope of leaky ReLU for scores below 0 (Maas et al., 2013).", ge=0, lt=1)
    init_range: float = setting(
        0.0,
        "Initial weights are uniform in plus or minus this; 0: sqrt(6 / (rows + columns)) of each gate's matrix "
        "(Glorot & Bengio, 2010).",
        ge=0,
    )
    batch_size: int = setting(
        32,
        "Lanes a worker: sessions that one worker walks side by side (session-parallel mini-batches, ICLR 2016).",
        ge=1,
    )
    epochs: int = setting(10, "Passes over the training sessions.", ge=1)
    order: Literal["time", "shuffled"] = setting(
        "time", "Order of the training sessions: oldest first, or shuffled anew each epoch."
    )
    dropout_embed: float = setting(
        0.0, "Share of the item input that is dropped in training (Srivastava et al., JMLR 2014).", ge=0, lt=1
    )
    dropout_hidden: float = setting(
        0.4, "Share of the hidden state that is dropped in training, where it is passed on and carried.", ge=0, lt=1
    )
    optimizer: Literal["adagrad", "sgd", "rmsprop", "adadelta", "adam"] = setting(
        "adagrad",
        "Optimizer; in item tables it changes touched rows only, weights and state: Adagrad (Duchi et al., JMLR 2011; "
        "accumulators start at 0), SGD, RMSprop (Hinton 2012), Adadelta (Zeiler 2012), Adam (Kingma & Ba, ICLR 2015; "
        "moments of untouched rows stay, bias is corrected by the row's own number of updates).",
    )
    learning_rate: float = setting(0.2, "Learning rate of the optimizer.", gt=0)
    lr_schedule: Literal["constant", "linear", "exponential", "cosine"] = setting(
        "constant", "How the learning rate goes, epoch by epoch, to lr-final times its value in the last one."
    )
    lr_final: float = setting(0.1, "Learning rate of the last epoch, as a share of learning-rate.", gt=0)
    momentum: float = setting(
        0.2, "Momentum of the optimizer, on the changes it makes (Polyak 1964); 0 is none.", ge=0, lt=1
    )
    rho: float = setting(0.9, "RMSprop and Adadelta: decay of the running means of squares.", ge=0, lt=1)
    beta1: float = setting(0.9, "Adam: decay of the mean of gradients.", ge=0, lt=1)
    beta2: float = setting(0.999, "Adam: decay of the mean of squared gradients.", ge=0, lt=1)
    grad_clip: float = setting(
        0.0,
        "Scale a step's gradient down to this L2 norm, taken over all weights (Pascanu et al., 2013); 0: never.",
        ge=0,
    )
    l2: float = setting(
        0.0, "L2 regularisation of the weights a step touches: adds l2 times the weight to its gradient.", ge=0
    )
    label_smoothing: float = setting(
        0.0,
        "Cross-entropy only: share of the target's probability spread evenly over the scored items (Szegedy et al., "
        "CVPR 2016).",
        ge=0,
        lt=1,
    )
    n_sample: int = setting(
        2048, "Extra negatives a step, shared by all lanes (CIKM 2018, section 3.1); 0: in-batch only.", ge=0
    )
    sample_alpha: float = setting(
        0.5, "Extra negatives are drawn with probability ~ support^alpha: 0 uniform, 1 by popularity.", ge=0
    )
    mask_hits: bool = setting(
        False,
        "A lane's target among its own negatives (drawn, or another lane's target), an accidental hit, does not count.",
    )
    mask_seen: bool = setting(False, "Items that the session has clicked already are no negatives of its lane.")
    logq: float = setting(
        1.0,
        "Cross-entropy only: strength of the correction for the sampling probabilities (Bengio & Senécal, 2008); 0 is "
        "none.",
        ge=0,
    )
    bpreg: float = setting(0.5, "BPR-max only: weight of the score regularisation (CIKM 2018, section 3.3).", ge=0)
    patience: int = setting(
        0,
        "Stop after so many epochs without a better result on the validation split, and keep the best epoch's weights; "
        "0: never.",
        ge=0,
    )
    monitor: Literal["recall_at_20", "mrr_at_20"] = setting("mrr_at_20", "What patience looks at.")
    seed: int = setting(20, "Seed of the initial weights, the negatives, the dropout and the order.", ge=0, lt=2**32)

    def __post_init__(self) -> None:
        """Raises ValueError for settings that contradict each other."""
        for name, wanted, needs in (
            ("embedding_size", self.embedding == "separate", "--embedding separate"),
            ("label_smoothing", self.loss.endswith("cross-entropy"), "a cross-entropy loss"),
        ):
            if getattr(self, name) and not wanted:
                raise ValueError(f"--{name.replace('_', '-')}: needs {needs}")
        for name in ("layers", "feed_forward"):
            if min(getattr(self, name), default=1) < 1:
                raise ValueError(f"--{name.replace('_', '-')}: every layer needs a unit, got {getattr(self, name)}")

    @property
    def width(self) -> int:
        """Size of an item's row in the table that scores the items."""
        return (self.layers + self.feed_forward)[-1]

    @property
    def activation(self) -> str:
        """The activation of the scores, 'auto' resolved."""
        if self.final_act != "auto":
            return self.final_act
        return "elu" if self.loss == "bpr-max" and self.elu_param > 0 else "linear"


def _published(
    loss: str,
    layers: int,
    batch_size: int,
    dropout: tuple[float, float],
    learning_rate: float,
    momentum: float,
    sample_alpha: float,
    **of_loss: float,
) -> dict[str, Any]:
    """Settings of a published result; `dropout` of the item input and of the hidden state."""
    return {
        "loss": loss,
        "layers": (layers,),
        "embedding": "tied",
        "batch_size": batch_size,
        "epochs": 10,
        "dropout_embed": dropout[0],
        "dropout_hidden": dropout[1],
        "learning_rate": learning_rate,
        "momentum": momentum,
        "n_sample": 2048,
        "sample_alpha": sample_alpha,
        **of_loss,
    }


PRESETS = {
    "rsc15": _published("cross-entropy", 100, 32, (0, 0.4), 0.2, 0.2, 0.5, logq=1),
    "yoochoose": _published("cross-entropy", 480, 48, (0, 0.2), 0.07, 0, 0.2, logq=1),
    "rees46": _published("cross-entropy", 512, 240, (0.45, 0), 0.065, 0, 0.5, logq=1),
    "coveo": _published("bpr-max", 512, 144, (0.35, 0), 0.05, 0.4, 0.2, bpreg=1.85, elu_param=1),
    "retailrocket": _published("bpr-max", 224, 80, (0.5, 0.05), 0.05, 0.4, 0.4, bpreg=1.95, elu_param=0.5),
    "diginetica": _published("bpr-max", 512, 128, (0.5, 0.3), 0.05, 0.15, 0.3, bpreg=0.9, elu_param=1),
}


_ICLR = {"embedding": "one-hot", "n_sample": 0, "batch_size": 50, "logq": 0.0}
PUBLISHED_LOSSES = {
    "cross-entropy": PRESETS["rsc15"],
    # CIKM 2018's own settings for the maxima: no dropout, a little momentum, extra negatives drawn alike
    "bpr-max": _published("bpr-max", 100, 32, (0, 0), 0.2, 0.1, 0, bpreg=0.5, elu_param=0.5),
    "top1-max": _published("top1-max", 100, 32, (0, 0), 0.2, 0.1, 0),
    # ICLR 2016, table 2 (100 units on RSC15): in-batch negatives alone
    "top1": {**_ICLR, "dropout_hidden": 0.5, "learning_rate": 0.01, "momentum": 0.0},
    "bpr": {**_ICLR, "dropout_hidden": 0.2, "learning_rate": 0.05, "momentum": 0.2},
}
"""Settings to compare losses with, each with those published for it."""


_NO_SEPARATOR = '"\r\n\0'


@dataclass(frozen=True)
class Prepare(Common):
    """Turn raw click logs into clean sessions in time order, in Parquet."""

    clicks: tuple[str, ...] = setting(
        REQUIRED,
        "Click log: files, folders or globs. Of a folder, files named .csv .tsv .txt .dat .inter .parquet .pq are read "
        "and others counted; a file that is named itself, or by a glob, is text unless named .parquet or .pq.",
        min_length=1,
    )
    test_clicks: tuple[str, ...] = setting((), "Click log of the test split, where the data comes already split.")
    base: str = setting(
        "",
        "Prepared folder to go on from: its clicks are taken from there, and of --clicks only files that it is not "
        "made of are read. Its items keep their index, new ones come after them. It can be --out itself.",
    )
    out: str = setting(REQUIRED, "Folder for the prepared data.")
    format: Literal["columns", "yoochoose", "diginetica", "retailrocket", "globo", "uci-eshop", "movielens"] = setting(
        "columns",
        "Form of the log: 'columns' (named columns) or that of a published log: 'yoochoose' (no header: session, ISO "
        "time, item, category), 'diginetica' (train-item-views.csv), 'retailrocket' (events.csv: views, sessions of a "
        "visitor by --session-gap 30m), 'globo' (hourly files), 'uci-eshop', 'movielens' (.inter: a user is a session, "
        "a rating a click).",
    )
    session_column: str = setting("SessionId", "Name of the session column (format 'columns').")
    user_column: str = setting(
        "",
        "Name of a column of users, where there is none of sessions (format 'columns'): sessions are cut by "
        "--session-gap, and the id of one is USER_TIME, with the time of its first click in ms.",
    )
    session_gap: str = setting(
        "",
        "A click more than this after the user's click before begins a new session: a number and s, m or h, such as "
        "30m (with --user-column; format 'retailrocket' has 30m).",
    )
    item_column: str = setting("ItemId", "Name of the item column (format 'columns').")
    time_column: str = setting("Time", "Name of the time column (format 'columns').")
    time_unit: Literal["s", "ms", "us", "ns"] = setting(
        "s",
        "Unit of times given as numbers since 1970 UTC (format 'columns'); ISO-8601 text is recognised by itself.",
    )
    separator: str = setting(
        "",
        "Column separator of text files (format 'columns'): one ASCII character, or \\t for a tab; default: by the "
        "file's name (tab for .tsv, .txt and .inter, else comma).",
    )
    drop_duplicates: bool = setting(
        False, "Cleaning, step 1: leave out clicks of the same session, item and time as another, but the first."
    )
    drop_repeats: bool = setting(False, "Cleaning, step 2: leave out clicks on the item of the session's click before.")
    min_session_length: int = setting(2, "Cleaning, step 3: leave out sessions with fewer clicks than this.", ge=1)
    max_session_length: int = setting(
        0, "Cleaning, step 4: leave out sessions with more clicks than this (robots); 0 is no limit.", ge=0
    )
    max_clicks_per_minute: int = setting(
        0,
        "Cleaning, step 5: leave out sessions with more clicks than this in any 60 seconds (robots); 0 is no limit.",
        ge=0,
    )
    min_item_support: int = setting(
        5,
        "Cleaning, step 7 (6 is the split): leave out items with fewer clicks than this in the training split; step 8: "
        "training sessions that are then too short.",
        ge=1,
    )
    filter: Literal["once", "fixpoint"] = setting(
        "once",
        "Steps 7 and 8 are done 'once', so that an item can end up with less support, or again and again until nothing "
        "changes ('fixpoint'). Steps 9 and 10: validation and test clicks on items unknown in training, and sessions "
        "that are then too short.",
    )
    split_by: Literal["auto", "end", "start"] = setting(
        "auto",
        "Split by the time of a session's 'end' (no training click is at or after the split) or 'start' (no training "
        "session starts at or after it; later clicks of one that began before stay with it and are counted); 'auto': "
        "end, for format 'globo' start. Sessions are never cut.",
    )
    test_days: float = setting(
        1.0, "Sessions that end (or start) in the last so many days are the test split (unless --test-clicks).", ge=0
    )
    valid_days: float = setting(
        0.0, "Sessions that end (or start) in the so many days before are the validation split.", ge=0
    )
    shards: int = setting(256, "Logical shards (row groups) of the training split, near-equal in clicks.", ge=1)
    partitions: int = setting(
        0,
        "Partitions that sessions are hashed into while they are put together; 0: by the size of the log.",
        ge=0,
    )
    strict: bool = setting(False, "Stop at the first row that cannot be read instead of setting it aside in rejected/.")
    force: bool = setting(False, "Prepare even where the folder is already made of these files with these settings.")
    report: bool = setting(True, "Write report.html, the data in figures and tables, beside the prepared data.")

    def __post_init__(self) -> None:
        """Raises ValueError for a separator that is none, and for settings that contradict each other."""
        if self.separator == "\\t":  # as a shell hands it on
            object.__setattr__(self, "separator", "\t")
        if self.separator and (
            len(self.separator) > 1 or not self.separator.isascii() or self.separator in _NO_SEPARATOR
        ):
            raise ValueError(
                "--separator: one ASCII character, neither a double quote nor an end of line, or \\t for a tab, got "
                f"{self.separator!r}"
            )
        if self.session_gap and not self.gap:
            raise ValueError(f"--session-gap: a number above 0 and s, m or h, such as 30m, got {self.session_gap!r}")
        if self.user_column and not self.gap:
            raise ValueError("--user-column: needs --session-gap")
        if self.user_column and self.session_column != type(self).session_column:
            raise ValueError("--user-column and --session-column: give one of them")

    @property
    def gap(self) -> int:
        """The session gap in ms; 0 where there is none, or none that can be read."""
        found = re.fullmatch(r"(\d{1,9})([smh])", self.session_gap)
        return int(found[1]) * {"s": 1_000, "m": 60_000, "h": 3_600_000}[found[2]] if found else 0


@dataclass(frozen=True)
class Simulation:
    """What a simulated click log looks like."""

    sessions: int = setting(20_000, "Sessions to simulate.", ge=1)
    items: int = setting(1_000, "Items in the catalogue.", ge=2)
    days: float = setting(14.0, "Days that the log spans.", gt=0)
    mean_length: float = setting(5.0, "Mean clicks of a session.", ge=1)
    skew: float = setting(1.0, "Exponent of the popularity skew (Zipf); 0 is none.", ge=0)
    drift: float = setting(
        0.2, "Share of the popularity that moves to other items between the first and last day.", ge=0, le=1
    )
    simulation_seed: int = setting(7, "Seed of the simulated log.", ge=0, lt=2**32)


@dataclass(frozen=True)
class Simulate(Simulation, Common):
    """Write a simulated click log with learnable structure, at any size."""

    out: str = setting(REQUIRED, "Folder for the Parquet files of the log.")


@dataclass(frozen=True)
class Tracking:
    """Where runs and models are recorded."""

    tracking_uri: str = setting("", "MLflow tracking URI; default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db.")
    experiment: str = setting("gru4rec", "MLflow experiment.")


def _check_model_name(name: str) -> None:
    if name and not MODEL_NAME.fullmatch(name):
        raise ValueError(f"--model-name: letters, digits, '_', '-', '.' and blanks only, got {name!r}")


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
        _check_names(self)
        if self.resume and self.preset:
            raise ValueError(f"--preset {self.preset}: a run goes on with its own settings; leave it out")
        _check_model_name(self.model_name)

    @property
    def worker_range(self) -> tuple[int, int]:
        """Fewest and most workers; (0, 0) where the setting is neither a number nor MIN:MAX."""
        found = re.fullmatch(r"(\d+)(?::(\d+))?", str(self.workers))
        return (int(found[1]), int(found[2] or found[1])) if found else (0, 0)


def _check_names(settings: "Train | Tune") -> None:
    """Raises ValueError for a name that cannot be that of a folder."""
    for name, value in (("run-name", settings.run_name), ("resume", settings.resume)):
        if value and not re.fullmatch(r"[\w][\w.\-]*", value):
            raise ValueError(f"--{name}: letters, digits, '_', '-' and '.' only, got {value!r}")
    if settings.resume and settings.run_name and settings.resume != settings.run_name:
        raise ValueError("--resume and --run-name: give one of them")


def _measuring_workers() -> Any:
    return setting(
        0,
        "Ray tasks that measure at a time; 0: this process alone for what takes it up to a minute or so, else as many "
        "as the cluster has room for. The figures are the same.",
        ge=0,
    )


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
    workers: int = _measuring_workers()
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
    workers: int = _measuring_workers()
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
        _check_names(self)
        _check_model_name(self.model_name)
        if self.pack_gpus and self.gpus_per_trial:
            raise ValueError("--pack-gpus: measures what --gpus-per-trial gives; leave one of them out, or set it to 0")
        for seed in self.seeds:
            if not 0 <= seed < 2**32:
                raise ValueError(f"--seeds: each is at least 0 and below 2^32, got {seed}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"--seeds: each may be there once, got {' '.join(map(str, self.seeds))}")


@dataclass(frozen=True)
class Score(Tracking, Common):
    """Write the top-k recommendations of every session to Parquet."""

    model: str = setting(REQUIRED, "Model folder or MLflow URI (models:/gru4rec/1, models:/gru4rec@champion).")
    sessions: str = setting(
        "",
        "Sessions: a split of a prepared folder (DIR/test), or Parquet with session_id and items (lists of item ids): "
        "a file, or a folder of files named .parquet or .pq; others in it are counted.",
    )
    out: str = setting(REQUIRED, "Folder for the recommendations and manifest.json, which says which result counts.")
    export: Literal["", "items"] = setting(
        "", "'items': write item_id, embedding and bias of each item to the Parquet file OUT; score nothing."
    )
    date: str = setting("", "The night's date, as 2026-11-22: the result belongs to OUT/date=…; none: to OUT itself.")
    keep: int = setting(
        3, "Results to keep in a folder, that which counts and those before it; older ones are deleted.", ge=1
    )
    top_k: int = setting(20, "Recommendations a session.", ge=1)
    exclude_seen: bool = setting(False, "Do not recommend what the session has already clicked.")
    exclude_items: str = setting(
        "", "File of item ids not to recommend (out of stock): Parquet or CSV with a column item_id, or an id a line."
    )
    only_items: str = setting("", "File, of the same forms, of the item ids to recommend; no others are.")
    min_score: float | None = setting(
        None, "List only items that score at least this; lists of popular items, for want of known clicks, are whole."
    )
    with_embeddings: bool = setting(
        False, "Write the network's output after each session's last click too, as a column embedding."
    )
    incremental: bool = setting(
        False,
        "Go on from the last result of the same model that was made with this setting: lists of sessions without a new "
        "click are taken over, others cost their new clicks alone. Keeps a state of each session beside the result.",
    )
    skip_corrupt: bool = setting(
        False, "Leave out what cannot be read of the input, and count it, instead of stopping there."
    )
    actors: int = setting(0, "Scoring actors; 0: as many as the CPUs (with --gpus-per-actor: the GPUs) allow.", ge=0)
    threads: int = setting(1, "CPU threads of an actor.", ge=1)
    gpus_per_actor: float = setting(0.0, "GPUs (also fractions) of an actor.", ge=0)
    experiment: str = setting("gru4rec", "MLflow experiment of the run that records the result; empty: none.")
    max_fallback_share: float = setting(
        0.5, "Gate: highest share of sessions that get the most popular items, having no known click; 1: none.", ge=0
    )
    max_rejected_share: float = setting(
        0.01, "Gate (with --skip-corrupt): highest share of sessions, or of files, left out; 1: none.", ge=0
    )
    min_sessions: float = setting(
        0.3, "Gate (with --date): fewest sessions, as a share of those of the last date before; 0: none.", ge=0
    )
    min_coverage: float = setting(
        0.5, "Gate (with --date): fewest items on any list, as a share of those of the last date before; 0: none.", ge=0
    )
    min_overlap: float = setting(
        0.3,
        "Gate (with --date): least overlap of what the lists show with the last date before, the sum over items of the "
        "smaller of its shares of all list entries; 0: none.",
        ge=0,
        le=1,
    )

    def __post_init__(self) -> None:
        """Raises ValueError for settings that contradict each other."""
        if not self.sessions and not self.export:
            raise ValueError("--sessions: is required")
        if self.date:
            try:
                shown = datetime.date.fromisoformat(self.date).isoformat()
            except ValueError:
                shown = ""
            if shown != self.date:
                raise ValueError(f"--date: a date such as 2026-11-22, got {self.date!r}")


@dataclass(frozen=True)
class Bench(Common):
    """Measure speed as ratios against named alternatives, in one run on one machine."""

    what: Literal["train", "scaling", "prepare", "evaluate", "score", "all"] = setting(
        "train",
        "What to measure: the training step, how it scales with workers (two processes, and a model), prepare on "
        "simulated logs, evaluation beside its matrix product, or batch scoring beside the obvious pipeline and its "
        "matrix products; all: each of them in turn, on CPUs, in one result with a key for each.",
    )
    configurations: tuple[
        Literal[
            "rsc15",
            "yoochoose",
            "rees46",
            "coveo",
            "retailrocket",
            "diginetica",
            "lanes-32",
            "lanes-64",
            "lanes-128",
            "lanes-256",
            "catalogue",
        ],
        ...,
    ] = setting(
        (),
        "Which settings to measure, 'catalogue': one at two catalogue sizes, with its memory; default: all (scaling: "
        "lanes-256). With --what all they are those of the training step, and scaling has its default.",
    )
    seconds: float = setting(3.0, "Seconds of each measurement.", gt=0)
    repeats: int = setting(3, "Measurements of each, taken in turn.", ge=1)
    threads: int = setting(1, "CPU threads (scaling: of each worker).", ge=1)
    device: Literal["cpu", "cuda"] = setting("cpu", "Device; score on cuda: the engine alone, without Ray and files.")
    gpu_step_us: float = setting(
        100.0, "Scaling: a GPU's step in microseconds, assumed, not measured, for what many GPUs would do.", gt=0
    )
    clicks: tuple[int, ...] = setting(
        (3_000_000, 33_000_000),
        "Prepare: sizes of the logs, in clicks; the larger default is that of RSC15.",
        min_length=1,
    )
    ways: tuple[Literal["prepare", "prepare --no-report", "pandas", "pandas-arrow", "polars", "duckdb"], ...] = setting(
        (),
        "Prepare: what to measure, always beside 'prepare': scripts in pandas (straightforward; with lists laid out by "
        "Arrow), Polars and DuckDB; default: all whose library is installed.",
    )
    catalogues: tuple[int, ...] = setting(
        (17_376, 50_000, 500_000),
        "Score: sizes of the catalogue, in items.",
        min_length=1,
    )
    sessions: int = setting(0, "Score: sessions to score; 0: 20 billion scores, half a minute of two CPUs or so.", ge=0)
    scratch: str = setting(
        "",
        "Local folder for logs and results, which are deleted; default: that for temporary files.",
    )
