"""Train losses × units on one prepared folder, baselines beside them, and make the table. See --help."""

import sys

from gru4rec import cli, config


def ablate(settings: config.Ablate) -> dict:
    from gru4rec.evaluation import ablation

    return ablation.ablate(settings)


if __name__ == "__main__":
    sys.exit(cli.run(config.Ablate, ablate))
