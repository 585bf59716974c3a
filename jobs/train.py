"""Train GRU4Rec on a prepared folder, or on a simulated log where none is given. See --help."""

import sys

from gru4rec import cli, config


def train(settings: config.Train) -> dict:
    from gru4rec.training import job

    return job.train(settings)


if __name__ == "__main__":
    sys.exit(cli.run(config.Train, train))
