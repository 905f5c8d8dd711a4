"""Paired comparisons over seeds and orders, against counts made by hand and scipy's permutation test."""

from random import Random
from statistics import mean

import pytest

from lpi.errors import DataError
from lpi.metrics.statistics import bootstrap_interval, deviation, holm, paired_difference, sign_flip_p


def test_the_deviation_is_that_of_a_sample() -> None:
    assert deviation([1.0, 2.0, 3.0, 4.0]) == pytest.approx((5 / 3) ** 0.5)
    assert deviation([7.0]) == 0.0


def test_a_difference_that_every_pair_shows_beats_a_larger_but_unsteady_one() -> None:
    steady = paired_difference([42.0, 43.0, 41.0], [41.0, 42.1, 40.1])
    unsteady = paired_difference([50.0, 41.0, 40.0], [41.0, 42.0, 42.0])
    assert steady.mean < unsteady.mean
    assert steady.spread is not None
    assert abs(steady.mean) > steady.spread
    assert unsteady.spread == pytest.approx(6.0828, abs=1e-4)  # of 9, -1 and -2


def test_what_a_hard_order_costs_both_methods_cancels() -> None:
    found = paired_difference([60.0, 20.0], [58.0, 18.0])
    assert found.mean == 2
    assert found.spread == 0


def test_a_single_pair_proves_nothing() -> None:
    found = paired_difference([60.0], [20.0])
    assert (found.spread, found.p) == (None, 1.0)


def test_an_interval_is_as_wide_as_runs_and_items_differ() -> None:
    low, high = bootstrap_interval([[[1.0, 3.0]], [[2.0, 4.0]]], draws=4000)
    assert 1.0 <= low < 2.0 < 3.0 < high <= 4.0
    narrow = bootstrap_interval([[[2.4, 2.6]]] * 8)
    assert narrow[1] - narrow[0] < 0.2
    with pytest.raises(DataError, match="at least one run"):
        bootstrap_interval([])
    with pytest.raises(DataError, match="items in each task"):
        bootstrap_interval([[[1.0], []]])


def test_tasks_that_differ_do_not_widen_an_interval_and_each_counts_alike() -> None:
    assert bootstrap_interval([[[0.0] * 9, [10.0]]] * 2) == (5.0, 5.0)


def test_an_interval_is_that_of_a_plain_loop() -> None:
    chance = Random(3)
    runs = [[[chance.gauss(m, 2) for _ in range(n)] for n in (5, 9)] for m in (0, 1, 2)]

    def drawn() -> float:
        picked = chance.choices(runs, k=3)
        return mean(mean(mean(chance.choices(task, k=len(task))) for task in run) for run in picked)

    plain = sorted(drawn() for _ in range(20_000))
    low, high = bootstrap_interval(runs, draws=20_000)
    assert (low, high) == (pytest.approx(plain[500], abs=0.06), pytest.approx(plain[-501], abs=0.06))


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1.0] * 6, 2 / 64),  # only all signs alike are as far from 0
        ([0.0, 0.0], 1.0),
        ([3.0, -1.0], 1.0),  # sums 2, 4, -4, -2: all at least 2 away
        ([3.0, 1.0, -1.0], 6 / 8),  # |sum| 3 or more: 5, 3, 3 and their negatives
    ],
)
def test_the_sign_flip_test_counts_sign_patterns(differences: list[float], p: float) -> None:
    assert sign_flip_p(differences) == pytest.approx(p)


def test_many_pairs_are_sampled_and_come_near_the_exact_value() -> None:
    differences = [0.5 + 0.1 * (i % 5) - 0.9 * (i % 3) for i in range(15)]
    assert sign_flip_p(differences) == sign_flip_p(differences)
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    exact = stats.permutation_test(
        (differences,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        n_resamples=2**16,
        vectorized=True,
    )
    assert sign_flip_p(differences) == pytest.approx(exact.pvalue, abs=0.02)
    small = differences[:7]
    exact = stats.permutation_test(
        (small,), lambda x, axis: x.mean(axis=axis), permutation_type="samples", vectorized=True
    )
    assert sign_flip_p(small) == pytest.approx(exact.pvalue)


def test_holm_keeps_the_order_and_never_exceeds_one() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


def test_pairs_must_match() -> None:
    with pytest.raises(DataError, match="got 2, 1"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(DataError, match="got 0, 0"):
        paired_difference([], [])


def test_of_many_pairs_the_observed_signs_are_one_of_twenty_thousand_and_one() -> None:
    assert sign_flip_p([1.0] * 60) == pytest.approx(1 / 20_001, rel=1e-9)  # no coin falls alike sixty times
    assert sign_flip_p([0.0] * 15) == 1.0


def test_fourteen_pairs_are_still_counted_exactly_and_sums_may_differ_in_their_last_bits() -> None:
    assert sign_flip_p([1.0] * 14) == 2 / 2**14
    assert sign_flip_p([0.1, 0.2, 0.3, 0.7]) == 2 / 16


def test_an_interval_leaves_out_as_much_on_either_side_as_its_level_says() -> None:
    differences = [[[float(number)]] for number in range(40)]
    wide, narrow = (bootstrap_interval(differences, level=level, draws=1001) for level in (0.99, 0.5))
    assert wide[0] < narrow[0] < 19.5 < narrow[1] < wide[1]
    assert bootstrap_interval(differences) == bootstrap_interval(differences, level=0.95, draws=2_000, seed=0)
