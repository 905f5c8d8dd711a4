"""Referring expressions and boxes: files become records, as captioned pictures do. Knows no tensors and no tasks.

The embedded world's expressions are in :mod:`lpi.data.expressions.scenes`, apart from the readers of files, which
shouldn't wait for the drawing code to load.
"""

from lpi.data.expressions.check import check_expressions, check_source
from lpi.data.expressions.jsonl import load_expressions
from lpi.data.expressions.record import Box, BoxForm, ReferringExpression, read_box
from lpi.data.expressions.refcoco import load_mdetr, load_refs

__all__ = [
    "Box",
    "BoxForm",
    "ReferringExpression",
    "check_expressions",
    "check_source",
    "load_expressions",
    "load_mdetr",
    "load_refs",
    "read_box",
]
