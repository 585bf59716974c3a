"""The page of a finished training: the test split beside baselines, and loss, speed and validation as they went."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from gru4rec.page import NUMBER, RAW, TEXT, Row, escaped, figure, svg, table
from gru4rec.page import page as whole_page
from gru4rec.tracking.model_card import MODEL, Facts, metric_keys, metric_name
from gru4rec.tracking.model_card import figure as measured
from gru4rec.training.curve import PARTS, Stretch, stretches
from gru4rec.training.progress import Finished

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINE, _EPOCH = "#0072b2", "#d55e00"  # told apart by the colour-blind too


def page(facts: Facts, trained: Finished) -> str:
    """The page as HTML."""
    parts = [_about(facts, trained), _test(facts), _curve("Loss", "loss", "loss", trained)]
    if any(done.validated for done in trained.epochs):
        parts.append(figure("Validation", _validation(trained)))
    parts += [_curve("Speed", "speed", "transitions a second", trained), _epochs(trained), _workers(trained)]
    parts.append(_settings(facts))
    return whole_page("Training", parts)


def _about(facts: Facts, trained: Finished) -> str:
    train = facts.summary["splits"]["train"]
    events = sum(done.epoch.events for done in trained.epochs)
    seconds = sum(done.epoch.seconds for done in trained.epochs)
    what = (
        f"{len(trained.epochs):,} epoch(s) over {train['sessions']:,} sessions of {facts.data}, {facts.items:,} items: "
        f"{events:,} transitions in {seconds:,.0f} s, by {trained.workers} worker(s). The model is that of epoch "
        f"{trained.best_epoch}."
    )
    note = f'<p class="note">Fingerprint of the data: {escaped(str(facts.summary["fingerprint"]))}</p>'
    return f"<h1>Training</h1>\n<p>{escaped(what)}</p>\n{note}"


def _test(facts: Facts) -> str:
    heading = "<h2>Test split</h2>\n"
    if not facts.predictions:
        return f"{heading}<p>The test split has nothing to predict: nothing was measured.</p>"
    columns = {"": TEXT} | dict.fromkeys(facts.metrics, NUMBER)
    rows: list[Row] = [
        [metric_name(key), *(measured(facts, name, key) for name in facts.metrics)] for key in metric_keys(facts)
    ]
    about = f"{facts.predictions:,} predictions in {facts.sessions:,} sessions, each over the whole catalogue."
    if facts.intervals:
        about += " In brackets: intervals of 95 %, drawn over sessions."
    if MODEL not in facts.intervals:
        about += f" None for {MODEL}: ranking so many predictions once more would have taken too long."
    return f'{heading}{table("test", columns, rows)}\n<p class="note">{about}</p>'


def _curve(heading: str, name: str, label: str, trained: Finished) -> str:
    """Loss or speed from mark to mark, and of whole epochs."""
    of_epoch: Callable[[int], float]
    of_stretch: Callable[[Stretch], float]
    if name == "loss":
        of_epoch, of_stretch = lambda number: trained.epochs[number].epoch.loss, lambda of: of.loss
    else:
        of_epoch, of_stretch = lambda number: _speed(trained, number), lambda of: of.events_per_second

    def draw(drawn: "Figure") -> None:
        axes = drawn.subplots()
        places, values = [], []
        for number, done in enumerate(trained.epochs):
            for of in stretches(done.curve):
                places.append(number + of.part / PARTS)
                values.append(of_stretch(of))
        axes.plot(places, values, ".-", color=_LINE, linewidth=1, markersize=2, label="within the epochs")
        whole = range(len(trained.epochs))
        means = [of_epoch(number) for number in whole]
        axes.plot([number + 1 for number in whole], means, "o", color=_EPOCH, label="mean of an epoch")
        if name == "speed":
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_ylabel(label)
        axes.legend()
        _by_epoch(axes, len(trained.epochs))

    return figure(heading, svg(name, f"{heading} within the epochs and of each epoch", 3.0, draw))


def _validation(trained: Finished) -> str:
    def draw(drawn: "Figure") -> None:
        keys = [key for key in trained.epochs[0].validated if not key.startswith("valid_ndcg")]
        panels = np.atleast_1d(drawn.subplots(1, len(keys)))
        whole = np.arange(1, len(trained.epochs) + 1)
        for axes, key in zip(panels, keys, strict=True):
            axes.plot(whole, [done.validated[key] for done in trained.epochs], ".-", color=_LINE)
            axes.axvline(trained.best_epoch, color=_EPOCH, linewidth=1, linestyle="--")
            axes.set_title(metric_name(key.removeprefix("valid_")))
            _by_epoch(axes, len(trained.epochs))

    return svg("validation", "Metrics on the validation split by epoch; the dashed line is the best epoch", 2.6, draw)


def _by_epoch(axes: "Axes", epochs: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0, epochs * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.set_xlabel("epochs trained")


def _epochs(trained: Finished) -> str:
    keys = list(trained.epochs[0].validated)
    columns = {"epoch": NUMBER, "loss": NUMBER, "transitions a second": NUMBER, "seconds": NUMBER}
    columns |= {f"validation {metric_name(key.removeprefix('valid_'))}": NUMBER for key in keys}
    rows: list[Row] = [
        [
            number + 1,
            f"{done.epoch.loss:.4f}",
            f"{_speed(trained, number):,.0f}",
            f"{done.epoch.seconds:,.1f}",
            *(f"{done.validated[key]:.4f}" for key in keys),
        ]
        for number, done in enumerate(trained.epochs)
    ]
    return f"<h2>Epochs</h2>\n{table('epochs', columns, rows)}"


def _workers(trained: Finished) -> str:
    last = trained.epochs[-1].workers
    headings = ("worker", "transitions a second", "waiting for input", "in sums", "bytes a step", "memory (MiB)")
    rows: list[Row] = [
        [
            rank,
            f"{of.events_per_second:,.0f}",
            f"{of.wait_share:.1%}",
            f"{of.exchange_share:.1%}",
            f"{of.exchange_bytes:,.0f}",
            f"{of.resident_mib:,.0f}",
        ]
        for rank, of in enumerate(last)
    ]
    note = "In the last epoch. Shares are of the time; memory is the most that a process ever held."
    columns = dict.fromkeys(headings, NUMBER)
    return f'<h2>Workers</h2>\n{table("workers", columns, rows)}\n<p class="note">{note}</p>'


def _settings(facts: Facts) -> str:
    rows: list[Row] = [
        [key, (", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)) or "none"]
        for key, value in {**facts.hyperparameters, **facts.training}.items()
    ]
    return f"<h2>Settings</h2>\n{table('settings', {'setting': TEXT, 'value': RAW}, rows)}"


def _speed(trained: Finished, number: int) -> float:
    """Transitions a second in epoch `number`, from 0."""
    epoch = trained.epochs[number].epoch
    return epoch.events / max(epoch.seconds, 1e-9)
