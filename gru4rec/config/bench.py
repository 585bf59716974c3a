"""Settings of bench."""

from dataclasses import dataclass
from typing import Literal

from gru4rec.config.common import Common, setting


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
