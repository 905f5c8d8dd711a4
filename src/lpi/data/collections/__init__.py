"""Public data sets that papers compare on, read from the files as their publishers distribute them.

A *set* is a card, what its publisher's files are called, and a reader (``sets``); a *collection* is some sets, one task
each, in a paper's order, or COCO cut into super-categories (``gather``). Nothing is downloaded: the cards say where the
files come from and under which terms, and ``lpi data check`` says what is missing.
"""

from lpi.data.collections.gather import COLLECTIONS, Collection, check_collection, describe, load_collection
from lpi.data.collections.sets import SETS, PublicSet

__all__ = ["COLLECTIONS", "SETS", "Collection", "PublicSet", "check_collection", "describe", "load_collection"]
