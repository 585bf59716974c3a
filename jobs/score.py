"""Sessions → top-k recommendations of each; see --help."""

import sys

from gru4rec import cli, config
from gru4rec.scoring.job import score

if __name__ == "__main__":
    sys.exit(cli.run(config.Score, score))
