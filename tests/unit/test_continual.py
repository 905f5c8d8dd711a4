"""Averages, forgetting and transfer against hand-made task matrices."""

import pytest

from lpi.errors import DataError
from lpi.metrics import continual

MATRIX = [[0.5], [0.4, 0.6], [0.3, 0.7, 0.8]]


@pytest.mark.parametrize(
    ("matrix", "average", "final", "forgetting", "transfer"),
    [
        (MATRIX, (0.4 + 0.65 + 0.8) / 3, 0.6, (-0.2 + 0.1) / 2, (-0.2 + 0.1) / 2),
        ([[0.5]], 0.5, 0.5, 0.0, 0.0),
        ([[0.5], [0.5, 0.5]], 0.5, 0.5, 0.0, 0.0),
        # The best stage of task 0 is the second: forgetting counts from there, backward transfer from the first.
        ([[0.2], [0.8, 0.1], [0.5, 0.1, 0.3]], (0.5 + 0.1 + 0.3) / 3, 0.3, (-0.3 + 0.0) / 2, (0.3 + 0.0) / 2),
    ],
)
def test_figures_of_a_task_matrix(matrix, average, final, forgetting, transfer):
    assert continual.authors_average(matrix) == pytest.approx(average)
    assert continual.final_average(matrix) == pytest.approx(final)
    assert continual.authors_forgetting(matrix) == pytest.approx(forgetting)
    assert continual.backward_transfer(matrix) == pytest.approx(transfer)


@pytest.mark.parametrize(("matrix", "message"), [([], "empty"), ([[0.5], [0.4]], r"row 1 .* 2 entries.* got 1")])
def test_what_is_no_task_matrix_is_refused(matrix, message):
    for figure in (continual.authors_average, continual.final_average, continual.authors_forgetting):
        with pytest.raises(DataError, match=message):
            figure(matrix)


def test_forward_transfer_is_the_gain_before_learning():
    assert continual.forward_transfer([0.45, 0.3], [0.4, 0.25]) == pytest.approx(0.05)
    assert continual.forward_transfer([], []) == 0.0
    with pytest.raises(DataError, match="got 1 and 2"):
        continual.forward_transfer([0.1], [0.1, 0.2])


def test_retention_is_a_share_of_the_frozen_models_figure():
    assert continual.retention(0.3, 0.4) == pytest.approx(0.75)
    with pytest.raises(DataError, match=r"got 0\.0"):
        continual.retention(0.1, 0.0)


def test_routing_accuracy_counts_the_fallback_as_wrong():
    assert continual.routing_accuracy([[8, 1, 1], [0, 9, 1]]) == 0.85
    assert continual.routing_accuracy([[1, 0], [1, 2]]) == 0.75  # without a fallback column
    with pytest.raises(DataError, match="no queries"):
        continual.routing_accuracy([[0, 0]])
    with pytest.raises(DataError, match="2 tasks"):
        continual.routing_accuracy([[1], [1]])
