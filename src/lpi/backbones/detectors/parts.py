"""The stock model with some of its parts exchanged, so that what it does around its towers is done by itself.

The towers of a detector are run block by block, with prompts; everything behind them (fusion, decoder, heads) is the
stock model's own ``forward``, called on a view of it in which the towers are replaced by what they gave. The view
shares every weight with the model, and the model is left as it is.
"""

from __future__ import annotations

from copy import copy
from typing import Any

from torch import nn


class Given(nn.Module):
    """Stands where a part of a model stood, and gives what has been computed already."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result

    def forward(self, *unused: Any, **ignored: Any) -> Any:
        """What was given, whatever goes in."""
        return self.result


def with_parts(module: Any, parts: dict[str, nn.Module]) -> Any:
    """A view of a module in which some parts, named by their dotted paths, are others.

    >>> pair = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> with_parts(pair, {"0": Given("states")})[0](None)
    'states'
    """
    view = copy(module)
    view._modules = dict(module._modules)
    inside: dict[str, dict[str, nn.Module]] = {}
    for path, part in parts.items():
        name, _, rest = path.partition(".")
        if rest:
            inside.setdefault(name, {})[rest] = part
        else:
            view._modules[name] = part
    for name, inner in inside.items():
        view._modules[name] = with_parts(view._modules[name], inner)
    return view
