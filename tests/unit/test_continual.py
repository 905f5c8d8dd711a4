"""Averages, forgetting and transfer against hand-made task matrices."""

import pytest

from lpi.errors import DataError
from lpi.evaluation.summary import summary
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


def test_retention_is_a_share_of_the_zero_shot_figure():
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


def recall(t2i, i2t):
    """A recall record; recall at 5 is 0.1, and at 10 is 0.15, above recall at 1."""

    def more(values, by):
        return [v + by for v in values] if isinstance(values, list) else values + by

    return {
        name: {"1": values, "5": more(values, 0.1), "10": more(values, 0.15)}
        for name, values in (("text_to_image", t2i), ("image_to_text", i2t))
    }


def stage(t2i, i2t, *, oracle=None, following=None, held_out=None, routing=None):
    return {
        "recall": recall(t2i, i2t),
        "oracle": None if oracle is None else recall(oracle, oracle),
        "next": None if following is None else recall(following, following),
        "held_out": None if held_out is None else recall(held_out, held_out),
        "routing": routing,
    }


def test_the_summary_of_a_run():
    routing = {
        "vision": {"accuracy": 0.9, "confusion": [[9, 1, 0], [1, 9, 0]]},
        "text": {"accuracy": 0.7, "confusion": [[7, 3, 0], [3, 7, 0]]},
    }
    stages = [
        stage([0.5], [0.7], following=0.35, held_out=0.4),
        stage([0.3, 0.4], [0.7, 0.6], oracle=[0.6, 0.7], held_out=0.36, routing=routing),
    ]
    zero = {"stages": [stage([0.2], [0.4], following=0.3), stage([0.1, 0.2], [0.3, 0.4])], "held_out": recall(0.4, 0.4)}
    result = summary(stages, zero)
    assert result["zero_shot"]["r1"] == pytest.approx(0.25)
    assert result["zero_shot"]["held_out_r1"] == pytest.approx(0.4)
    assert result["final"]["r1"] == pytest.approx(0.5)
    assert result["final"]["r5"] == pytest.approx(0.6)
    assert result["final"]["r10"] == pytest.approx(0.65)
    assert result["final"]["text_to_image"]["1"] == pytest.approx(0.35)
    assert result["final"]["image_to_text"]["1"] == pytest.approx(0.65)
    assert result["final"]["held_out_r1"] == pytest.approx(0.36)
    assert result["average"]["r1"] == pytest.approx((0.55 + 0.5) / 2)
    assert result["forgetting"]["r1"] == pytest.approx(-0.1)
    assert result["forgetting"]["text_to_image"]["1"] == pytest.approx(-0.2)
    assert result["bwt"]["image_to_text"]["1"] == pytest.approx(0.0)
    assert result["fwt"]["r1"] == pytest.approx(0.05)
    assert result["retention"] == pytest.approx(0.9)
    assert result["routing_accuracy"] == pytest.approx({"vision": 0.9, "text": 0.7, "both": 0.8})
    assert result["oracle"]["r1"] == pytest.approx(0.65)


def test_a_figure_that_can_not_be_computed_is_none():
    stages = [stage([0.5], [0.7])]
    result = summary(stages, {"stages": stages, "held_out": None})
    for name in ("fwt", "retention", "routing_accuracy", "oracle"):
        assert result[name] is None, name
    assert result["final"]["held_out_r1"] is None


def test_a_summary_needs_stages_and_as_many_of_zero_shot():
    with pytest.raises(DataError, match="at least one stage"):
        summary([], {"stages": []})
    with pytest.raises(DataError, match="zero-shot has 0 stages; the run has 1"):
        summary([stage([0.5], [0.7])], {"stages": []})


def test_joint_training_has_a_final_figure_and_nothing_to_forget():
    zero = {"stages": [stage([0.2], [0.4]), stage([0.1, 0.2], [0.3, 0.4])], "held_out": None}
    result = summary([stage([0.5, 0.6], [0.7, 0.8])], zero)
    assert result["zero_shot"]["r1"] == pytest.approx(0.25)
    assert result["final"]["r1"] == result["average"]["r1"] == pytest.approx(0.65)
    assert result["final"]["image_to_text"]["1"] == pytest.approx(0.75)
    assert result["forgetting"]["r1"] == result["bwt"]["r1"] == 0.0
    with pytest.raises(DataError, match="no stage of 3 tasks"):
        summary([stage([0.5, 0.6, 0.7], [0.7, 0.8, 0.9])], zero)


def test_zero_shot_may_know_of_later_stages():
    zero = {"stages": [stage([0.2], [0.4]), stage([0.1, 0.2], [0.3, 0.4])], "held_out": None}
    assert summary([stage([0.5], [0.7])], zero)["zero_shot"]["r1"] == pytest.approx(0.3)
