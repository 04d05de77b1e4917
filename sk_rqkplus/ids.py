"""From codes that several items may share to one ID per item.

An ID is a code and one more column, the suffix. Everything here works on arrays, and so
on anybody's codes.
"""

from sk_rqkplus._catalogue import Catalogue, Merge
from sk_rqkplus._compare import IDChanges, compare_ids
from sk_rqkplus._deduplicate import deduplicate
from sk_rqkplus._duplicates import CollisionFloor, collision_floor, duplicate_groups
from sk_rqkplus._sketch import sketch

__all__ = [
    "Catalogue",
    "CollisionFloor",
    "IDChanges",
    "Merge",
    "collision_floor",
    "compare_ids",
    "deduplicate",
    "duplicate_groups",
    "sketch",
]
