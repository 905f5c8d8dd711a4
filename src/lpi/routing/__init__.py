"""Routers: which task a query belongs to. One file, one class, one name; any method that is routed takes any of them.

A router of one's own is the path of its file. Beside the routers stand what all of them share: :mod:`lpi.routing.mix`
for the vectors of items under several tasks, :mod:`lpi.routing.score` for what queries and candidates are ranked by.
"""

from __future__ import annotations

import sys

from lpi.plugins import named, names_in, source_of
from lpi.prompts.task_keys import FALLBACK
from lpi.routing.base import Kept, Router, Routing, all_under, membership

NOT_ROUTERS = {"base", "mix", "score"}


def router_names() -> list[str]:
    """The names of all routers in this folder."""
    return names_in(sys.modules[__name__], NOT_ROUTERS)


def router_class(name: str) -> type[Router]:
    """The one router in ``routing/<name>.py``, in the file ``name``, or in the module ``name``.

    Raises:
        UnknownNameError, MissingFileError, ConfigError: see :func:`lpi.plugins.named`.
    """
    return named(name, Router, package=__name__, known=router_names(), what="router")


def router_source(found: type[Router]) -> str:
    """The name under which :func:`router_class` gives a class again."""
    package, _, last = found.__module__.rpartition(".")
    return last if package == __name__ else source_of(found)


__all__ = [
    "FALLBACK",
    "Kept",
    "Router",
    "Routing",
    "all_under",
    "membership",
    "router_class",
    "router_names",
    "router_source",
]
