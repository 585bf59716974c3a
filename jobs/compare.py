"""Compare model versions and baselines on the same data, and promote the better version. See --help."""

import sys

from gru4rec import cli, config


def compare(settings: config.Compare) -> dict:
    from gru4rec.evaluation import compare as job

    return job.compare(settings)


if __name__ == "__main__":
    sys.exit(cli.run(config.Compare, compare))
