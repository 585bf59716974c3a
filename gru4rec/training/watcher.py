"""What a person sees of a training run while it goes on, and what MLflow keeps of it."""

import time
from collections import deque
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from gru4rec.tracking import runs
from gru4rec.training.curve import PARTS, Mark, stretches
from gru4rec.training.loop import Done
from gru4rec.training.notice_board import News

CURVES = "curves"
"""Section of the metrics by hundredths of an epoch: MLflow's UI puts what has a slash in its name into sections, and
sorts these."""

_RECENT_S = 30.0  # speed and time left are those of so many seconds


class Watcher:
    """Shows the workers' news: a bar on a terminal, elsewhere a line every `every_s` seconds; and a line an epoch.

    Each epoch is recorded in MLflow, once, whoever has recorded it, and so is each hundredth of an epoch. Where MLflow
    fails, its error is raised, and the next call records what is missing. That can take minutes: `show` and `record`
    are for a thread each.
    """

    def __init__(self, console: Console, epochs: int, transitions: int, run_id: str, every_s: float = 60.0) -> None:
        self._console, self._epochs, self._transitions, self._run_id = console, epochs, transitions, run_id
        self._every_s = every_s
        self._recorded = runs.logged_steps(run_id, "loss")
        self._parts = runs.logged_steps(run_id, f"{CURVES}/loss")
        self._shown = max(self._recorded, default=0)  # epochs that a person has seen, here or in an earlier attempt
        self._said = 0
        self._line_at = time.monotonic() + every_s
        self._recent: deque[tuple[float, int]] = deque()  # (time, transitions trained)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=epochs * transitions)

    def __enter__(self) -> "Watcher":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, news: News) -> None:
        """Tell a person what is new."""
        for message in news.said[self._said :]:
            style = "bold yellow" if message.startswith("WARNING") else None
            self._console.print(message, style=style, soft_wrap=True)  # paths stay whole, to be searched for
        self._said = len(news.said)
        done = news.epoch * self._transitions + news.point.events
        speed = self._speed(done)
        described = news.stage
        if news.stage == "training" and news.point.events:
            point = news.point
            described = (
                f"epoch {news.epoch + 1}/{self._epochs}  step {point.steps:,}  {speed:,.0f} events/s  "
                f"loss {point.loss / point.events:.4f}"
            )
        self._bar.update(self._task, completed=done, description=described)
        if time.monotonic() >= self._line_at and not self._console.is_terminal:
            self._line_at = time.monotonic() + self._every_s
            left = (self._epochs * self._transitions - done) / speed if speed else 0
            share = done / max(self._epochs * self._transitions, 1)
            self._console.print(f"{described}  {share:.0%} done" + (f"  {_duration(left)} left" if left else ""))
        for number, epoch in enumerate(news.done, start=1):
            if number > self._shown:
                self._shown = number
                self._show(number, epoch)

    def record(self, news: News) -> None:
        """Record what is new in MLflow; noted as recorded once it is."""
        in_hand = {news.epoch: news.point.curve}
        self._record_parts(in_hand | {number: epoch.curve for number, epoch in enumerate(news.done)})
        for number, epoch in enumerate(news.done, start=1):
            if number not in self._recorded:
                self._record(number, epoch)
                self._recorded.add(number)

    def _speed(self, done: int) -> float:
        """Transitions a second, of late."""
        now = time.monotonic()
        if self._recent and done < self._recent[-1][1]:  # the workers began anew
            self._recent.clear()
        self._recent.append((now, done))
        while self._recent[0][0] < now - _RECENT_S:
            self._recent.popleft()
        seconds = now - self._recent[0][0]
        return (done - self._recent[0][1]) / seconds if seconds > 1 else 0.0

    def _record_parts(self, curves: Mapping[int, Sequence[Mark]]) -> None:
        """Record what is new of the curves by epoch, from 0; a step is a hundredth of an epoch."""
        points: dict[int, dict[str, float]] = {}
        for epoch, marks in curves.items():
            for of in stretches(marks):
                step = epoch * PARTS + of.part
                if step not in self._parts:
                    points[step] = {f"{CURVES}/loss": of.loss, f"{CURVES}/events_per_second": of.events_per_second}
        if points:
            runs.log_points(self._run_id, points)
            self._parts |= points.keys()

    def _record(self, number: int, done: Done) -> None:
        epoch = done.epoch
        of_workers: dict[str, float] = {}
        for rank, worker in enumerate(done.workers):
            of_workers |= {
                f"workers/{rank}/events_per_second": worker.events_per_second,
                f"workers/{rank}/wait_share": worker.wait_share,
                f"workers/{rank}/exchange_share": worker.exchange_share,
                f"workers/{rank}/exchange_bytes_per_step": worker.exchange_bytes,
                f"workers/{rank}/resident_mib": worker.resident_mib,
                **({f"workers/{rank}/gpu_memory_mib": worker.gpu_memory_mib} if worker.gpu_memory_mib else {}),
            }
        speed = epoch.events / max(epoch.seconds, 1e-9)
        metrics = {"loss": epoch.loss, "events_per_second": speed, "workers": len(done.workers)}
        runs.log_epoch(self._run_id, number, **metrics, **done.validated, **of_workers)

    def _show(self, number: int, done: Done) -> None:
        epoch, seconds = done.epoch, max(done.epoch.seconds, 1e-9)
        validated = {key: value for key, value in done.validated.items() if not key.startswith("valid_ndcg")}
        shown = "".join(f"  {key} {value:.4f}" for key, value in validated.items())
        self._console.print(
            f"epoch {number}/{self._epochs}  loss {epoch.loss:.4f}  {epoch.events / seconds:,.0f} events/s  "
            f"{epoch.steps / seconds:,.0f} mini-batches/s  {seconds:.1f} s  "
            f"waiting for input {max(worker.wait_share for worker in done.workers):.1%}{shown}",
            soft_wrap=True,
        )


def _duration(seconds: float) -> str:
    """`2 h 05 min`, `3 min`, `40 s`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
