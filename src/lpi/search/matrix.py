"""All vectors of some rows in memory, in half precision: exact search is one product over them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lpi.search.encoding import Single

FITS = 2**30  # bytes: what a matrix may take of the memory
ERROR = 2**-9  # a cosine's, at most: vectors, query and product are each rounded by 2^-11 of at most 1
FEW = 4  # queries up to which each has a product of its own; half precision is read at the memory's own speed
BLOCK = 2**17  # rows widened to single precision at once for more queries: they share what that costs
TOGETHER = 64  # queries whose scores are held at once

Numbers = NDArray[np.int64]


class Matrix:
    """The vectors of rows, of length 1 and in half precision, and the numbers by which the store takes rows.

    Args:
        vectors: [rows, features].
        numbers: of the rows in the store, rising, [rows].
    """

    def __init__(self, vectors: Tensor, numbers: Numbers) -> None:
        self.vectors, self.numbers = vectors, numbers

    @classmethod
    def read(cls, table: Any, width: int) -> Matrix:
        """The matrix of all rows of a store's table."""
        vectors = torch.empty(table.count_rows(), width, dtype=torch.float16)
        numbers = np.empty(len(vectors), dtype=np.int64)
        done = 0
        for batch in table.search().select(["vector"]).with_row_id(True).to_batches(BLOCK):
            own = slice(done, done + batch.num_rows)
            values = batch["vector"].flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
            lengths = np.sqrt(np.einsum("rf,rf->r", values, values))[:, None]
            vectors[own] = torch.from_numpy(values / np.maximum(lengths, 1e-12))
            numbers[own] = batch["_rowid"].to_numpy(zero_copy_only=False)
            done = own.stop
        if (np.diff(numbers) < 0).any():
            order = np.argsort(numbers)
            vectors, numbers = vectors[torch.from_numpy(order)], numbers[order]
        return cls(vectors, numbers)

    def candidates(self, queries: Single, count: int, allowed: Numbers | None = None) -> list[Numbers]:
        """For each query, the numbers of rows among which are its best by the exact cosine, all that tie included.

        Of the best rows by the rounded cosine, the last has an exact one that is at most :data:`ERROR` smaller. So no
        row is among the best whose rounded cosine is more than twice that below.

        Args:
            queries: [queries, features].
            count: how many best rows.
            allowed: the numbers of the rows that may be found; ``None`` for all.
        """
        if len(queries) > TOGETHER:
            parts = np.split(queries, range(TOGETHER, len(queries), TOGETHER))
            return [near for part in parts for near in self.candidates(part, count, allowed)]
        if not len(self.vectors):
            return [self.numbers] * len(queries)
        probes = functional.normalize(torch.tensor(queries))
        barred = None if allowed is None else torch.from_numpy(np.isin(self.numbers, allowed, invert=True))
        least = torch.full((len(probes),), -2.0)  # below any cosine; a barred row's is lower still
        near: list[list[tuple[Tensor, Tensor]]] = [[] for _ in probes]
        size = BLOCK if len(probes) > FEW else len(self.vectors)
        for start in range(0, len(self.vectors), size):
            scores = _scores(self.vectors[start : start + size], probes)
            if barred is not None:
                scores.masked_fill_(barred[start : start + size], -torch.inf)
            if scores.shape[1] >= count:
                least = torch.maximum(least, scores.topk(count).values[:, -1] - 2 * ERROR)
            for own, row, floor in zip(near, scores, least, strict=True):
                places = torch.from_numpy(np.flatnonzero(row.numpy() >= floor.item()))
                own.append((places + start, row[places]))
        found = []
        for own, floor in zip(near, least, strict=True):
            places, cosines = (torch.cat(parts) for parts in zip(*own, strict=True))
            found.append(self.numbers[places[cosines >= floor].numpy()])
        return found


def _scores(vectors: Tensor, probes: Tensor) -> Tensor:
    """Cosines [queries, rows] of rows in half precision, those of few queries rounded."""
    if len(probes) <= FEW:
        return torch.stack([vectors @ probe for probe in probes.half()]).float()
    return (vectors.float() @ probes.T).T.contiguous()
