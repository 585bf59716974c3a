"""Score sessions: the top-k recommendations of every session, as Parquet with a manifest."""

import sys
from typing import Any

from gru4rec import cli, config


def score(settings: config.Score) -> dict[str, Any]:
    from gru4rec import on_ray
    from gru4rec.scoring import batch, report
    from gru4rec.tracking import folder, registry

    uri, version = registry.resolve(settings.model, settings.tracking_uri)
    loaded = folder.load(registry.fetch(uri, settings.tracking_uri))
    found = batch.find(settings, loaded)
    with on_ray.connected(settings.verbose):
        result = batch.run(settings, found, loaded, version, uri)
    report.show(result, uri)
    return result


if __name__ == "__main__":
    sys.exit(cli.run(config.Score, score))
