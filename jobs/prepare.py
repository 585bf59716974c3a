"""Click logs → clean sessions in Parquet; see --help."""

import sys

from gru4rec import cli, config
from gru4rec.sessions.prepare import prepare

if __name__ == "__main__":
    sys.exit(cli.run(config.Prepare, prepare))
