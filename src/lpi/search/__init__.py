"""Search in a folder of pictures with a model that goes on learning: index, teach, forget, roll back.

The index keeps, for every picture, its features under each task's prompts that was ever asked for. They never change,
so a new task costs only the pictures that the router sends to it, and an earlier stage costs nothing.
"""

from lpi.search.filters import Filters
from lpi.search.hits import Hit
from lpi.search.index import SearchIndex

__all__ = ["Filters", "Hit", "SearchIndex"]
