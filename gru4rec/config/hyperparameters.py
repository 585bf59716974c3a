"""What defines a model and its training, and the settings of published results."""

from dataclasses import dataclass
from typing import Any, Literal

from gru4rec.config.common import setting


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
