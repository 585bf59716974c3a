"""Speed as ratios against named alternatives, measured in the same run; see --help. Needs no Ray."""

import sys
from typing import Any

import torch

from gru4rec import cli, config
from gru4rec.training import bench


def run(settings: config.Bench) -> dict[str, Any]:
    torch.set_num_threads(settings.threads)
    rows = []
    for name in settings.configurations or bench.configurations():
        print(f"measuring {name}", file=sys.stderr, flush=True)
        rows.append(bench.measure(name, settings.seconds, settings.repeats, settings.device))
    print(bench.markdown(rows), file=sys.stderr)
    return {"what": settings.what, "threads": settings.threads, "device": settings.device, "rows": rows}


if __name__ == "__main__":
    sys.exit(cli.run(config.Bench, run))
