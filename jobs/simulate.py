"""A simulated click log; see --help."""

import sys

from gru4rec import cli, config
from gru4rec.sessions.simulate import simulate


def run(settings: config.Simulate) -> dict:
    return simulate(settings, settings.out)


if __name__ == "__main__":
    sys.exit(cli.run(config.Simulate, run))
