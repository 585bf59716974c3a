"""The scoring job: resolve the model once, check the input, then score on Ray."""

from typing import Any

from gru4rec import config, storage
from gru4rec.tracking import folder, registry


def score(settings: config.Score) -> dict[str, Any]:
    """Write the top-k recommendations of every session; see `config.Score`. Returns the result of the job.

    An alias is resolved once, here: a result comes from one version, even if the alias moves meanwhile.
    """
    uri, version = registry.resolve(settings.model, settings.tracking_uri)
    loaded = folder.load(registry.fetch(uri, settings.tracking_uri))
    # Ray is imported after its chatter was silenced, which the caller does.
    from gru4rec import on_ray
    from gru4rec.scoring import batch, report

    found = batch.find(settings, loaded)
    with on_ray.connected(settings.verbose), on_ray.without_explained_lines(settings.verbose):
        result = batch.run(settings, found, loaded, version, uri)
    report.show(result, storage.shown(uri))
    return result
