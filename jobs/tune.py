"""Search hyperparameters, train the best anew, test it once, register it. See --help."""

import sys

from gru4rec import cli, config


def tune(settings: config.Tune) -> dict:
    from gru4rec.tuning import job

    return job.tune(settings)


if __name__ == "__main__":
    sys.exit(cli.run(config.Tune, tune))
