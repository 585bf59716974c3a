"""The scoring job: resolve the model once, check the input, then score."""

import sys
from typing import Any

from gru4rec import config, outputs, storage
from gru4rec.scoring import batch, export, gates, night, report
from gru4rec.sessions import file_names
from gru4rec.tracking import folder, registry


def score(settings: config.Score) -> dict[str, Any]:
    """Write the top-k recommendations of every session; see `config.Score`. The result is as `summary` gives it.

    An alias is resolved once, here: a result comes from one version, even if the alias moves meanwhile. Raises
    InputError for a model, sessions or settings that cannot be, GRU4RecError where a gate stays closed or nothing can
    be written: what was published before stays then.
    """
    if settings.export:
        outputs.check_file("--out", settings.out)
    else:
        outputs.check_folder("--out", settings.out)
    uri, version = registry.resolve(settings.model, settings.tracking_uri)
    loaded = folder.load(registry.fetch(uri, settings.tracking_uri))
    if settings.export == "items":
        return {**export.items(loaded, settings.out), "model_version": version}
    job = batch.find(settings, loaded, version, uri)
    if job.found.others:
        print(file_names.not_read("--sessions", job.found.others, file_names.PARQUET), file=sys.stderr, flush=True)
    try:
        done = batch.run(job)
    except gates.Closed as closed:
        night.record(settings, closed.content, {}, failed=str(closed))
        raise
    result = summary(job, done)
    if not done.unchanged or not night.recorded(settings, done.content):
        measured = {name: result[name] for name in ("sessions_per_second", "kept_files")} if done.scored else {}
        result["run_id"] = night.record(settings, done.content, measured)
    if unused := (done.content["states"] or {}).get("unused"):
        print(
            f"WARNING: {unused} of {len(done.content['files'])} parts were scored from the first clicks: the earlier "
            "result is damaged, or this machine rounds otherwise in other batches",
            file=sys.stderr,
        )
    for why in done.content["input"]["corrupt"]:
        print(f"WARNING: left out: {why}", file=sys.stderr)
    report.show(result, storage.shown(uri))
    return result


def summary(job: batch.Job, done: batch.Done) -> dict[str, Any]:
    """The result of the job, for machines."""
    content = done.content
    totals = content["totals"]
    return {
        "sessions_in": content["input"]["sessions"],
        "sessions_out": totals["sessions"],
        "distinct_sessions": totals["distinct_sessions"],
        "rejected": totals["rejected"],
        "corrupt": len(content["input"]["corrupt"]),
        "skipped_files": len(job.found.others),
        "unknown_limits": {option: file["unknown"] for option, file in content["limits"].items()},
        "fallback": totals["fallback"],
        "unknown_clicks": totals["unknown_clicks"],
        "taken_over": totals["taken_over"],
        "continued": totals["continued"],
        "list_length": totals["list_length"],
        "sessions_per_second": round(done.scored / done.seconds, 1) if done.scored else 0.0,
        "files": len(content["files"]),
        "kept_files": done.kept,
        "unchanged": done.unchanged,
        "seconds": content["seconds"],
        "model_version": job.version,
        "out": storage.shown(job.settings.out),
        "date": job.settings.date or None,
        "result": content["result"],
    }
