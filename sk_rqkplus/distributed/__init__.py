"""The same models on tables that are larger than a machine.

Functions here take and return Arrow: one function of a batch of rows serves every
engine. A fit asks for sums over blocks of rows, and does not ask where the blocks are:
see ``_fit`` for what an engine has to do.
"""

from sk_rqkplus.distributed._batches import encode_batch, encoded_schema, lean
from sk_rqkplus.distributed._identify import identify
from sk_rqkplus.distributed._shards import Encoded, encode_shards
from sk_rqkplus.distributed.catalogue import Appended, ShardedCatalogue

__all__ = [
    "Appended",
    "Encoded",
    "ShardedCatalogue",
    "encode_batch",
    "encode_shards",
    "encoded_schema",
    "identify",
    "lean",
]
