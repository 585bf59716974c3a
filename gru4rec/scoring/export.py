"""What the model has learnt of each item, for others: a Parquet file of the rows that score the items."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from gru4rec import storage
from gru4rec.errors import GRU4RecError, InputError
from gru4rec.storage import shown
from gru4rec.tracking.folder import LoadedModel


def items(loaded: LoadedModel, path: str) -> dict[str, Any]:
    """Write item_id, support, embedding (D float32) and bias of each item to the file `path`, whole or not at all.

    A session's embedding (`--with-embeddings`) times an item's, plus its bias, is the item's score. Raises InputError
    where `path` is a folder.
    """
    target = storage.absolute(path)
    filesystem, inner = storage.locate(target)
    if filesystem.get_file_info(inner).type == fs.FileType.Directory:
        raise InputError(f"--out {shown(path)}: is a folder; name a file for the items, such as items.parquet")
    table = loaded.model.item_table.detach().cpu().contiguous().numpy()
    width = table.shape[1]
    found = pa.table(
        {
            "item_id": loaded.items["item_id"],
            "support": loaded.items["support"],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(table.reshape(-1)), width),
            "bias": pa.array(loaded.model.item_bias.cpu().numpy().astype(np.float32)),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(found.replace_schema_metadata(None), sink, use_dictionary=False)
    try:
        storage.write_bytes(target, sink.getvalue())
    except OSError as error:
        raise GRU4RecError(f"{shown(path)}: cannot be written: {error}") from error
    return {"items": len(found), "width": width, "out": shown(path)}
