"""Going on from a model, also where the catalogue has changed.

Users retrain on newer logs: most items are known, some are new, some have gone. Known items keep their rows and the
optimizer's state of them; new items begin as in a new model; vanished ones are dropped; the weights that all items
share are kept with their state.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from gru4rec.config import Hyperparameters
from gru4rec.errors import InputError
from gru4rec.model.network import GRU4Rec, initialise
from gru4rec.sessions.catalogue import UNKNOWN, catalogue, encoder

_ARCHITECTURE = ("cell", "layers", "input_to_all_layers", "feed_forward", "embedding", "embedding_size")
_TABLES = ("item_table", "item_bias", "item_input")


@dataclass(frozen=True)
class Overlap:
    """Which items of a new catalogue an old one knows."""

    known: Tensor  # [n] int64: indices of the new catalogue
    place: Tensor  # [n] int64: where these items stand in the old one
    new: int  # items that the old catalogue does not know
    dropped: int  # items of the old catalogue that are no more

    @classmethod
    def of(cls, items: pa.Table, old_items: pa.Table) -> "Overlap":
        """From two items tables (item_id, item_index, support). Raises InputError where their ids cannot match."""
        old = catalogue(old_items)
        place = encoder(old)(catalogue(items).ids)
        known = np.flatnonzero(place != UNKNOWN)
        new, dropped = len(place) - len(known), len(old.ids) - len(known)
        return cls(torch.from_numpy(known), torch.from_numpy(place[known]), new, dropped)

    def copy(self, new: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> None:
        """Write `old` weights, or what has their names, into `new`: of tables the rows of known items, else all."""
        for name, values in new.items():
            if name.split(".")[0] in _TABLES:
                values[self.known.to(values.device)] = old[name][self.place].to(values.device)
            else:
                values.copy_(old[name])


def check_architecture(old: GRU4Rec, settings: Hyperparameters) -> None:
    """Raises InputError where the old model's weights do not fit `settings`, naming the setting."""
    for name in _ARCHITECTURE:
        wanted, have = getattr(settings, name), getattr(old.hyperparameters, name)
        if wanted != have:
            flag = "--" + name.replace("_", "-")
            raise InputError(f"{flag} is {_shown(wanted)}, but the model to go on from has {_shown(have)}")


def carried_over(old: GRU4Rec, settings: Hyperparameters, overlap: Overlap, device: torch.device | str) -> GRU4Rec:
    """A model of `settings` for the new catalogue, with the old weights where there are some.

    Raises InputError as `check_architecture`.
    """
    check_architecture(old, settings)
    model = initialise(settings, len(overlap.known) + overlap.new, device)
    overlap.copy(model.tensors(), old.tensors())
    return model


def _shown(value: object) -> str:
    return (" ".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)
