"""Figures over seeds; and is a difference of two methods larger than what seeds and task orders make of it?

Both methods ran with the same seeds and orders, so their figures come in pairs and only the differences count: what a
hard order costs both of them cancels. With a handful of pairs there is no assuming a distribution; the test asks how
often differences of these sizes would have a mean this far from nothing if each could as well have had the other sign.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from random import Random
from statistics import mean, stdev

import numpy as np

from lpi.errors import DataError

EXACT_PAIRS = 14  # up to here all 2^n signs are tried
DRAWS = 20_000


def deviation(values: Sequence[float]) -> float:
    """The sample standard deviation (n - 1 below the line); 0 of a single value.

    >>> deviation([1.0, 2.0, 3.0])
    1.0
    """
    return stdev(values) if len(values) > 1 else 0.0


@dataclass(frozen=True)
class PairedDifference:
    """What a paired comparison found.

    Attributes:
        mean: of the first's figures less the second's.
        spread: the sample deviation of these differences; ``None`` of a single pair.
        p: the chance of a mean so far from 0, were the signs a coin's.
    """

    mean: float
    spread: float | None
    p: float


def paired_difference(first: Sequence[float], second: Sequence[float]) -> PairedDifference:
    """Compare two methods that ran with the same seeds and orders.

    >>> found = paired_difference([0.5, 0.6, 0.7], [0.4, 0.5, 0.5])
    >>> round(found.mean, 4), round(found.spread, 4), found.p
    (0.1333, 0.0577, 0.25)

    Args:
        first: one figure a run.
        second: the other method's, run by run in the same order.

    Raises:
        DataError: no runs, or not the same number of them.
    """
    if not first or len(first) != len(second):
        raise DataError(f"a paired comparison needs as many runs of both, at least 1; got {len(first)}, {len(second)}.")
    differences = [ours - theirs for ours, theirs in zip(first, second, strict=True)]
    middle = mean(differences)
    spread = stdev(differences) if len(differences) > 1 else None
    return PairedDifference(middle, spread, sign_flip_p(differences))


def bootstrap_interval(
    differences: Sequence[Sequence[Sequence[float]]], *, level: float = 0.95, draws: int = 2_000, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of a mean difference under drawing anew, with replacement: runs, then items of each task.

    A run's difference is the mean over its tasks of the means over their items. Tasks aren't drawn: they are what the
    methods are compared on.

    >>> bootstrap_interval([[[2.0, 2.0], [2.0]], [[2.0], [2.0, 2.0]]])
    (2.0, 2.0)

    Args:
        differences: of two methods, by run, by task, by test item (a picture with its captions, an expression).
        level: how much of the drawn means the interval holds.
        draws: how often.
        seed: of the drawing.

    Raises:
        DataError: no runs, a run without tasks, or a task without items.

    Paper: Efron, Bootstrap methods: another look at the jackknife (1979).
    """
    if not differences or not all(run and all(map(len, run)) for run in differences):
        raise DataError("an interval needs at least one run with at least one task, and items in each task.")
    chance, runs = np.random.default_rng(seed), len(differences)
    drawn = np.zeros((runs, draws, runs))  # a run may be drawn several times over, each time with items of its own
    for place, run in enumerate(differences):
        for task in run:
            items = np.asarray(task)
            drawn[place] += items[chance.integers(len(items), size=(draws, runs, len(items)))].mean(-1) / len(run)
    which = chance.integers(runs, size=(draws, runs))
    means = np.sort(drawn[which, np.arange(draws)[:, None], np.arange(runs)].mean(1))
    cut = round((1 - level) / 2 * (draws - 1))
    return float(means[cut]), float(means[-1 - cut])


def sign_flip_p(differences: Sequence[float], *, seed: int = 0) -> float:
    """The two-sided p-value of the sign-flip (permutation) test of mean 0.

    Exact up to 14 differences, by all sign patterns; above that by 20,000 random ones, the observed one included.

    >>> sign_flip_p([1.0, 2.0, 3.0])  # + + + and - - - of eight
    0.25

    Args:
        differences: at least one.
        seed: of the random patterns.
    """
    observed = abs(sum(differences)) * (1 - 1e-12)  # sums in another order differ in their last bits
    if len(differences) <= EXACT_PAIRS:
        patterns = list(product((1, -1), repeat=len(differences)))
        far = sum(abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= observed for signs in patterns)
        return far / len(patterns)
    chance = Random(seed)
    far = 1
    for _ in range(DRAWS):
        far += abs(sum(d if chance.random() < 0.5 else -d for d in differences)) >= observed
    return far / (DRAWS + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several comparisons, made larger so that the chance of any false one stays what it says.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    Paper: Holm, A simple sequentially rejective multiple test procedure (1979).
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted
