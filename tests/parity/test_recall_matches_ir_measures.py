"""Recall@k against ir_measures, an independent library of retrieval measures."""

import pytest
import torch

from lpi.metrics.ranking import count_ranks, recall_at

ir_measures = pytest.importorskip("ir_measures", reason="ir_measures is not installed")


@pytest.fixture(scope="module")
def table():
    """Scores without ties (ir_measures breaks ties by name), and one to four right candidates a query."""
    generator = torch.Generator().manual_seed(7)
    scores = torch.rand(60, 40, generator=generator, dtype=torch.float64)
    assert all(len(row.unique()) == 40 for row in scores)
    relevant = torch.rand(60, 40, generator=generator) < 0.05
    relevant[torch.arange(60), torch.randint(0, 40, (60,), generator=generator)] = True
    qrels = {f"q{q}": {f"d{d}": 1 for d in row.nonzero()[:, 0].tolist()} for q, row in enumerate(relevant)}
    run = {f"q{q}": {f"d{d}": float(score) for d, score in enumerate(row)} for q, row in enumerate(scores)}
    return scores, relevant.nonzero(), qrels, run


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_at_k_is_success_at_k(table, k):
    scores, pairs, qrels, run = table
    measure = ir_measures.Success @ k  # retrieval of images and captions calls a hit in the top k "recall"
    ranks = count_ranks(lambda start, stop: scores[start:stop], len(scores), pairs, block=16)
    assert recall_at(k, ranks) == pytest.approx(ir_measures.calc_aggregate([measure], qrels, run)[measure], abs=1e-9)
