"""Rank the whole catalogue at every prediction of a split. See --help."""

import sys

from gru4rec import cli, config


def evaluate(settings: config.Evaluate) -> dict:
    from gru4rec.evaluation import job

    return job.evaluate(settings)


if __name__ == "__main__":
    sys.exit(cli.run(config.Evaluate, evaluate))
