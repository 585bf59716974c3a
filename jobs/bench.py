"""Speed as ratios against named alternatives, measured in the same run; see --help. Needs no Ray."""

import sys
from typing import Any

from gru4rec import cli, config


def run(settings: config.Bench) -> dict[str, Any]:
    from gru4rec.training import bench

    return bench.run(settings.configurations, settings.seconds, settings.repeats, settings.threads, settings.device)


if __name__ == "__main__":
    sys.exit(cli.run(config.Bench, run))
