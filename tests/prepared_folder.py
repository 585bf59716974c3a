"""A prepared folder of sessions in memory, written without Ray."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gru4rec.sessions import summary, write
from gru4rec.sessions.prepared import SPLITS, Prepared, Sessions


def prepared_folder(folder: Path, splits: dict[str, Sessions], items: int, shards: int = 16) -> Prepared:
    """`splits` by name; the training split has two files and `shards` row groups in all."""
    entries: dict[str, dict] = {name: {"files": []} for name in SPLITS}
    for name in SPLITS:
        (folder / name).mkdir(parents=True)
        sessions = splits.get(name)
        if sessions is None or not sessions.count:
            entries[name] |= {"sessions": 0, "clicks": 0, "transitions": 0}
            continue
        parts = 2 if name == "train" else 1
        for number, rows in enumerate(np.array_split(np.arange(sessions.count), parts)):
            entry = write.write_file(_table(sessions, rows), str(folder), SPLITS.index(name), number, shards // 2)
            entries[name]["files"].append(entry)
        for total in ("sessions", "clicks", "transitions"):
            entries[name][total] = sum(entry[total] for entry in entries[name]["files"])
    support = np.bincount(splits["train"].items, minlength=items)
    catalogue = pa.table({"item": np.arange(items) + 1000, "support": support})
    write.write_items(catalogue, str(folder))
    made = {
        "fingerprint": summary.fingerprint(catalogue["item"], entries),
        "support_digest": summary.support_digest(catalogue["support"]),
        "splits": entries,
    }
    (folder / "prepare.json").write_text(json.dumps(made))
    return Prepared(str(folder))


def bare_summary(items: pa.Table | None = None, **files: list[dict]) -> dict:
    """What prepare.json says of splits of these files, as far as readers ask; counts are 0 but for the training clicks,
    which are those of the `items`.
    """
    counts = dict.fromkeys(("sessions", "clicks", "transitions"), 0)
    splits = {name: {**counts, "files": files.get(name, [])} for name in SPLITS}
    if items is None:
        return {"fingerprint": "", "splits": splits}
    splits["train"]["clicks"] = sum(items["support"].to_pylist())
    return {"fingerprint": summary.fingerprint(items["item_id"], splits), "splits": splits}


def complete(
    prepared: Prepared, rejected: list[dict] | None = None, removed: tuple[int, ...] = (7, 5, 3, 2)
) -> Prepared:
    """The folder with the counts and the rejected rows that prepare would have written."""
    names = ["sessions too short", "rare items (train)", "items unknown in training (valid, test)"]
    names.append("sessions too short now (valid, test)")
    steps = [
        {"name": n, "sessions": i, "clicks": clicks} for i, (n, clicks) in enumerate(zip(names, removed, strict=True))
    ]
    left = sum(prepared.summary["splits"][name]["clicks"] for name in SPLITS)
    rows_in = left + sum(removed) + len(rejected or [])
    logs = [{"log": "clicks", "files": 2, "rows_in": rows_in, "rejected": len(rejected or [])}]
    prepared.summary |= {"rows_in": rows_in, "rejected": len(rejected or []), "logs": logs, "steps": steps}
    prepared.summary["items"] = len(prepared.items)
    folder = prepared.folder
    with open(f"{folder}/prepare.json", "w") as file:
        json.dump(prepared.summary, file)
    if rejected:
        pa.fs.LocalFileSystem().create_dir(f"{folder}/rejected")
        for part, rows in enumerate(np.array_split(rejected, 2)):
            pq.write_table(pa.Table.from_pylist(rows.tolist()), f"{folder}/rejected/part-{part:06d}.parquet")
    return Prepared(folder)


def _table(sessions: Sessions, rows: np.ndarray) -> pa.Table:
    items = [sessions.items[sessions.offsets[row] : sessions.offsets[row + 1]] for row in rows]
    times = [(row * 1000 + np.arange(len(part))) * 1000 for row, part in zip(rows.tolist(), items, strict=True)]
    return pa.table(
        {
            "session": pa.array(rows),
            "position": pa.array(rows),
            "items": pa.array([part.tolist() for part in items], pa.list_(pa.int32())),
            "times": pa.array([part.tolist() for part in times], pa.list_(pa.int64())),
        }
    )
