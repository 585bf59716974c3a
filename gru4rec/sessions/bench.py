"""How fast prepare is and how much memory it takes, beside scripts that do the same in one process.

A log is simulated and written as text, in the form and, by default, the size of the RecSys Challenge 2015. Each way to
prepare it (`WAYS`) is run in a process of its own, from start to end with all that it imports and starts, while the
memory of that process and of all below it is sampled. Afterwards the sessions and items it wrote are compared with
those of the first way, value by value.

Every way's input is in the page cache, and what it writes stays there: disks are not measured.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from gru4rec import config
from gru4rec.errors import GRU4RecError
from gru4rec.peak_memory import Sample, Sampler
from gru4rec.sessions import bench_scripts, checks, data_report, ingest, passes, simulate, write
from gru4rec.sessions.digest import digest
from gru4rec.sessions.prepared import ITEMS, SPLITS

OURS = "prepare"
WAYS = (OURS, "prepare --no-report", *bench_scripts.SCRIPTS)
"""The first is what all others are compared with."""

CLICKS_PER_SESSION = 33 / 9
ITEMS_AT_MOST = 53_000
DAYS = 182.0
"""Of the RSC15 log, as raw: 33 million clicks in 9 million sessions and 53 thousand items."""

GIB = 2**30

Entry = dict[str, Any]

STAGES: dict[str, tuple[Any, str]] = {
    "read and group": (ingest, "sessions_of"),
    "lengths": (passes, "lengths_and_split"),
    "support": (passes, "enough_support"),
    "first clicks": (passes, "first_clicks"),
    "write": (write, "write_splits"),
    "checks": (checks, "check"),
    "report": (data_report, "write"),
}
"""Functions whose time is taken within prepare; what is left is Python's and Ray's start and end."""


class Run(NamedTuple):
    """One run of one way."""

    seconds: float
    peak: Sample
    stages: dict[str, tuple[float, float]]  # begin and end, seconds since 1970
    samples: list[Sample]


def write_log(path: Path, clicks: int) -> Entry:
    """Simulate a log of about so many clicks and write it to `path`; returns its counts."""
    sessions = max(1, round(clicks / CLICKS_PER_SESSION))
    items = min(ITEMS_AT_MOST, max(2, clicks // 50))
    settings = config.Simulation(sessions=sessions, items=items, days=DAYS, mean_length=CLICKS_PER_SESSION)
    world = simulate.world(settings)
    quiet = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none")
    written = 0
    with open(path, "wb") as file:
        for number in range(-(-sessions // simulate.CHUNK)):
            table = simulate.chunk(settings, world, number)
            moments = table["Time"].cast(pa.timestamp("ms")).cast(pa.string())  # 2025-01-01 00:00:00.000
            moments = pc.binary_join_element_wise(pc.binary_replace_slice(moments, 10, 11, "T"), "Z", "")
            category = pa.array([b"0"], pa.binary()).take(pa.nulls(len(table), pa.int32()).fill_null(0))
            rows = [table["SessionId"], moments, table["ItemId"], category.cast(pa.string())]
            pyarrow.csv.write_csv(pa.table(rows, bench_scripts.NAMES), file, quiet)
            written += len(table)
    return {"clicks": written, "sessions": sessions, "items": items, "bytes": path.stat().st_size}


def installed(way: str) -> bool:
    """Whether the library of a way is there."""
    return way.startswith(OURS) or importlib.util.find_spec(way.split("-")[0]) is not None


def measure(way: str, log: Path, out: Path) -> Run:
    """Prepare `log` into `out` in a process of its own. Raises GRU4RecError where it fails."""
    command = [sys.executable, "-m", "gru4rec.sessions.bench", way, str(log), str(out)]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603
        with Sampler(process.pid) as sampler:
            answer, told = process.communicate()
        seconds = time.perf_counter() - began
    if process.returncode:
        last = (told.strip().splitlines() or ["no word"])[-1]
        raise GRU4RecError(f"{way} failed with exit code {process.returncode}: {last}")
    return Run(seconds, sampler.peak, json.loads(answer.splitlines()[-1]), sampler.samples)


def same(one: Path, other: Path) -> str:
    """ "" where two prepared folders hold the same items and sessions in the same order, else what differs."""
    if not pq.read_table(one / ITEMS).equals(pq.read_table(other / ITEMS)):
        return ITEMS
    return next((split for split in SPLITS if _digest(one / split) != _digest(other / split)), "")


def _digest(split: Path) -> str:
    """Digest of all sessions of a split, however they are cut into files."""
    files = sorted(split.glob("*.parquet"))

    def column(name: str) -> Iterator[pa.Array]:
        for path in files:
            with pq.ParquetFile(path) as file:
                yield from (batch[name] for batch in file.iter_batches(columns=[name], use_threads=False))

    starts = digest(pa.int64(), lambda name: map(_moments, column("start")) if name == "session_id" else iter(()))
    return starts + digest(pa.int64(), column)


def _moments(starts: pa.Array) -> pa.Array:
    return starts.cast(pa.int64())


def run(clicks: Sequence[int], ways: Sequence[str], repeats: int, scratch: str) -> Entry:
    """Measure `ways` (nothing: all) on logs of so many `clicks`, each `repeats` times in turn.

    Logs and prepared folders lie in a folder of their own in `scratch` (nothing: the system's for temporary files) and
    are deleted. Progress and the tables go to stderr. Raises GRU4RecError where a way fails or prepares other sessions.
    """
    chosen = [way for way in WAYS if way in (ways or WAYS) or way == OURS]
    result: Entry = {"what": "prepare", "cpus": len(os.sched_getaffinity(0)), "rows": []}
    result["not_installed"] = [way for way in chosen if not installed(way)]
    with tempfile.TemporaryDirectory(prefix="bench-prepare-", dir=scratch or None) as folder:
        for count in sorted(set(clicks)):
            log = Path(folder) / "clicks.dat"
            _say(f"simulating {count:,} clicks")
            about = write_log(log, count)
            there = [way for way in chosen if installed(way)]
            result["rows"] += _rows(about, _in_turn(there, log, Path(folder), repeats))
    result["linear"] = _linear(result["rows"])
    _say(markdown(result))
    return result


def _in_turn(ways: Sequence[str], log: Path, folder: Path, repeats: int) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {way: [] for way in ways}
    outs = {way: folder / way.replace(" ", "") for way in ways}
    for _ in range(repeats):
        for way, out in outs.items():
            found = measure(way, log, out)
            peak = found.peak.total / GIB
            _say(f"{way}: {found.seconds:.1f} s, {peak:.2f} GiB")
            runs[way].append(found)
            different = same(outs[OURS], out) if way != OURS else ""
            if different:
                raise GRU4RecError(f"{way} did not prepare the same as {OURS}: {different} differs")
            if way != OURS:
                shutil.rmtree(out)
        shutil.rmtree(outs[OURS])
    return runs


def _rows(about: Entry, runs: dict[str, list[Run]]) -> list[Entry]:
    rows = []
    for way, found in runs.items():
        row: Entry = {"way": way, **about, "seconds": _spread([one.seconds for one in found])}
        highest = max(found, key=lambda one: one.peak.total)
        row["peak_gib"] = _spread([one.peak.total / GIB for one in found])
        row["peak_shared_gib"] = highest.peak.shared / GIB
        pairs = zip(found, runs[OURS], strict=True)
        row["to_prepare"] = statistics.median(one.seconds / ours.seconds for one, ours in pairs)
        if found[0].stages:
            row["stages"] = _stages(found)
        rows.append(row)
    return rows


def _stages(runs: Sequence[Run]) -> Entry:
    """Median seconds of each stage and the highest memory in it; `start and end` is what no stage takes."""
    found = {}
    for name in runs[0].stages:
        spans = [run.stages[name] for run in runs]
        peaks = [
            max((s.total for s in run.samples if begin <= s.moment <= end), default=0)
            for run, (begin, end) in zip(runs, spans, strict=True)
        ]
        seconds = statistics.median(end - begin for begin, end in spans)
        found[name] = {"seconds": seconds, "peak_gib": max(peaks) / GIB}
    left = [run.seconds - sum(end - begin for begin, end in run.stages.values()) for run in runs]
    found["start and end"] = {"seconds": statistics.median(left)}
    return found


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def _linear(rows: Sequence[Entry]) -> Entry:
    """Of each way, time a click on the largest log over that on the smallest; empty for one size."""
    sizes = sorted({row["clicks"] for row in rows})
    if len(sizes) < 2:
        return {}
    a_click = {(row["way"], row["clicks"]): row["seconds"]["median"] / row["clicks"] for row in rows}
    return {way: a_click[way, sizes[-1]] / a_click[way, sizes[0]] for way in dict.fromkeys(row["way"] for row in rows)}


def markdown(result: Entry) -> str:
    """The figures as Markdown tables: ways, stages of prepare, time a click on the largest log."""
    lines = [
        f"{result['cpus']} CPUs; median (minimum–maximum)",
        "",
        "| clicks | way | seconds | to prepare | peak GiB | of it shared | clicks/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        seconds, peak = (
            f"{found['median']:.{digits}f} ({found['min']:.{digits}f}–{found['max']:.{digits}f})"
            for found, digits in ((row["seconds"], 1), (row["peak_gib"], 2))
        )
        speed = row["clicks"] / row["seconds"]["median"]
        lines.append(
            f"| {row['clicks']:,} | {row['way']} | {seconds} | {row['to_prepare']:.2f} | {peak} "
            f"| {row['peak_shared_gib']:.2f} | {speed:,.0f} |"
        )
    lines += [f"| – | {way} | not installed | – | – | – | – |" for way in result["not_installed"]]
    lines += ["", "| clicks | way | stage | seconds | peak GiB |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        for name, stage in row.get("stages", {}).items():
            peak = f"{stage['peak_gib']:.2f}" if "peak_gib" in stage else "–"
            lines.append(f"| {row['clicks']:,} | {row['way']} | {name} | {stage['seconds']:.1f} | {peak} |")
    if result["linear"]:
        shown = ", ".join(f"{way} {ratio:.2f}" for way, ratio in result["linear"].items())
        lines += ["", f"time a click, largest to smallest log: {shown}"]
    return "\n".join(lines)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _timed(function: Callable, name: str, stages: dict[str, tuple[float, float]]) -> Callable:
    def call(*arguments: Any, **named: Any) -> Any:
        began = time.time()
        try:
            return function(*arguments, **named)
        finally:
            stages[name] = began, time.time()

    return call


def main() -> None:
    """One way in a process of its own; `jobs/bench.py --what prepare` starts them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    for name in ("way", "log", "out"):
        parser.add_argument(name)
    given = parser.parse_args()
    stages: dict[str, tuple[float, float]] = {}
    with contextlib.redirect_stdout(sys.stderr):
        if given.way in bench_scripts.SCRIPTS:
            bench_scripts.SCRIPTS[given.way](given.log, Path(given.out))
        else:
            from gru4rec import cli
            from gru4rec.sessions.prepare import prepare

            for name, (module, function) in STAGES.items():
                setattr(module, function, _timed(getattr(module, function), name, stages))
            cli.quiet(False)
            settings = {"clicks": (given.log,), "out": given.out, "format": "yoochoose"}
            prepare(cli.check(config.Prepare, {**settings, "report": given.way == OURS}))
    print(json.dumps(stages))


if __name__ == "__main__":
    main()
