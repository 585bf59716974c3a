"""Training that has failed: the loss is no longer a number, or far above where it began."""

import numpy as np

from gru4rec.errors import GRU4RecError

_REMEDY = "lower --learning-rate or --momentum, or set --grad-clip"


class Exploded(GRU4RecError):
    """The loss is no longer finite, or far above where training began."""


def check(step_losses: np.ndarray, transitions: int, epoch: int, steps: int, limit: float) -> float:
    """The mean loss above which a later block shows that training failed: `limit`; in the first block (0) it is found.

    `step_losses` [T]: of a block, summed over the lanes of each step; the block has so many `transitions` and comes
    after `steps` steps of `epoch` (from 0). Raises Exploded where they are no longer finite or above the limit.
    """
    bad = np.flatnonzero(~np.isfinite(step_losses))
    if len(bad):
        raise Exploded(f"the loss is not finite in epoch {epoch + 1}, step {steps + bad[0] + 1}: {_REMEDY}")
    if not transitions:
        return limit
    mean = float(step_losses.sum()) / transitions
    if not limit:
        # Cross-entropy is bounded by 55 a transition; the other losses begin near 1.
        return 5 * mean + 5
    if mean > limit:
        worst = int(step_losses.argmax())
        raise Exploded(
            f"the loss explodes in epoch {epoch + 1}, step {steps + worst + 1}: {mean:.3g} a transition, "
            f"from {(limit - 5) / 5:.3g} in the beginning: {_REMEDY}"
        )
    return limit
