"""Settings, small and named, that between them use every option and every pair of options that could interact."""

from typing import Any

from gru4rec.config import Hyperparameters

RATES = {"sgd": 0.1, "adagrad": 0.1, "rmsprop": 0.005, "adadelta": 1.0, "adam": 0.01}
BOTH = {"dropout_embed": 0.2, "dropout_hidden": 0.3}
MASKS = {"mask_hits": True, "mask_seen": True}


def _variant(name: str, **options: Any) -> tuple[str, Hyperparameters]:
    small: dict[str, Any] = {
        "layers": (12,),
        "batch_size": 8,
        "n_sample": 30,
        "dropout_hidden": 0.0,
        "learning_rate": RATES[options.get("optimizer", "adagrad")],
        "momentum": 0.0,
        "seed": 1,
    }
    return name, Hyperparameters(**small | options)


def _one_hot() -> list[tuple[str, Hyperparameters]]:
    """Every cell with one layer, with two, and with the item input to both."""
    shapes: dict[str, dict[str, Any]] = {
        "1 layer": {"layers": (12,)},
        "2 layers": {"layers": (10, 12), **BOTH},
        "2 layers, input to all": {"layers": (10, 12), "input_to_all_layers": True, "momentum": 0.2, **BOTH},
    }
    return [
        _variant(f"one-hot {cell}, {name}", embedding="one-hot", cell=cell, **shape)
        for cell in ("gru", "lstm", "rnn")
        for name, shape in shapes.items()
    ]


def _optimizers() -> list[tuple[str, Hyperparameters]]:
    """Every optimizer alone; then with momentum, a norm that is often clipped, and L2."""
    found = []
    for number, optimizer in enumerate(RATES):
        found.append(_variant(optimizer, optimizer=optimizer, **(BOTH if number % 2 else {})))
        together = {"momentum": 0.3, "grad_clip": 0.5, "l2": 0.001}
        embedding = ("tied", "separate", "one-hot")[number % 3]
        found.append(
            _variant(
                f"{optimizer}, momentum, clip, l2, {embedding}", optimizer=optimizer, embedding=embedding, **together
            )
        )
    return found


def _masks() -> list[tuple[str, Hyperparameters]]:
    """Every loss with all that does not count left out, from a batch in which that is much."""
    found = [
        _variant(f"{loss}, masks", loss=loss, **MASKS, **(BOTH if number % 2 else {}))
        for number, loss in enumerate(("cross-entropy", "full-cross-entropy", "bpr-max", "top1-max", "bpr", "top1"))
    ]
    found.append(_variant("cross-entropy, hits masked", mask_hits=True, n_sample=40, momentum=0.2))
    found.append(_variant("bpr-max, seen masked", loss="bpr-max", mask_seen=True, **BOTH))
    return found


VARIANTS: list[tuple[str, Hyperparameters]] = [
    *_one_hot(),
    *_optimizers(),
    *_masks(),
    # Layers and embeddings.
    _variant("tied lstm, 2 layers", cell="lstm", layers=(10, 12), momentum=0.2, **BOTH),
    _variant("tied rnn, 3 layers, input to all", cell="rnn", layers=(8, 10, 12), input_to_all_layers=True),
    _variant("tied gru, 2 layers, input to all", layers=(10, 12), input_to_all_layers=True, momentum=0.2, **BOTH),
    _variant("separate gru, 2 layers", embedding="separate", layers=(10, 12), **BOTH),
    _variant(
        "separate lstm of its own size, 2 layers, input to all",
        embedding="separate",
        embedding_size=7,
        cell="lstm",
        layers=(10, 12),
        input_to_all_layers=True,
        loss="bpr-max",
        **BOTH,
    ),
    _variant("feed-forward, tied", feed_forward=(9,), **BOTH),
    _variant("feed-forward twice, tied lstm, 2 layers", feed_forward=(11, 9), cell="lstm", layers=(10, 12), **BOTH),
    _variant(
        "feed-forward, tied rnn, input to all, adam",
        feed_forward=(9,),
        cell="rnn",
        layers=(10, 12),
        input_to_all_layers=True,
        optimizer="adam",
        learning_rate=0.01,
    ),
    _variant("feed-forward, one-hot, bpr-max", feed_forward=(14, 9), embedding="one-hot", loss="bpr-max", **BOTH),
    # Label smoothing and correction.
    _variant("cross-entropy smoothed", label_smoothing=0.1, sample_alpha=0.75, momentum=0.2, **BOTH),
    _variant("cross-entropy smoothed, masks", label_smoothing=0.2, logq=0.5, **MASKS),
    _variant("cross-entropy smoothed, tanh, no correction", label_smoothing=0.1, logq=0.0, final_act="tanh"),
    _variant("full cross-entropy", loss="full-cross-entropy", momentum=0.2),
    _variant("full cross-entropy smoothed", loss="full-cross-entropy", label_smoothing=0.1, embedding="separate"),
    _variant(
        "full cross-entropy smoothed, masks, selu",
        loss="full-cross-entropy",
        label_smoothing=0.2,
        final_act="selu",
        **MASKS,
        **BOTH,
    ),
    # Activations.
    _variant("cross-entropy, relu, masks", final_act="relu", **MASKS),
    _variant("cross-entropy, leaky relu", final_act="leaky-relu", leaky_slope=0.1, **BOTH),
    _variant("bpr-max, auto: elu, no regularisation", loss="bpr-max", elu_param=1.0, bpreg=0.0, sample_alpha=0.0),
    _variant("bpr-max, auto: linear", loss="bpr-max", elu_param=0.0, momentum=0.2, **BOTH),
    _variant("bpr-max, linear", loss="bpr-max", final_act="linear", **MASKS, **BOTH),
    _variant("bpr-max, selu, masks", loss="bpr-max", final_act="selu", bpreg=1.5, **MASKS),
    _variant("bpr-max, leaky relu", loss="bpr-max", final_act="leaky-relu", leaky_slope=0.2, **BOTH),
    _variant("top1-max, tanh", loss="top1-max", final_act="tanh", **BOTH),
    _variant("top1-max, elu", loss="top1-max", final_act="elu", elu_param=0.7),
    _variant("top1, tanh, two layers", loss="top1", final_act="tanh", layers=(10, 12), **BOTH),
    _variant("bpr, elu", loss="bpr", final_act="elu", momentum=0.2),
    _variant("bpr, relu", loss="bpr", final_act="relu", **BOTH),
    # Edges.
    _variant("no extra negatives, masks", n_sample=0, **MASKS),
    _variant(
        "two lanes, often without negatives, bpr", batch_size=2, n_sample=1, loss="bpr", sample_alpha=1.0, **MASKS
    ),
    _variant(
        "six lanes, negatives by popularity, top1-max", batch_size=6, n_sample=20, loss="top1-max", sample_alpha=1.0
    ),
    _variant("initial range, schedule", init_range=0.2, lr_schedule="cosine", lr_final=0.2, epochs=3, **BOTH),
]
