"""Settings of score."""

import datetime
from dataclasses import dataclass
from typing import Literal

from gru4rec.config.common import REQUIRED, Common, Tracking, setting


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
