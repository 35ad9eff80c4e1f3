"""Scaling laws: a known law is found again, and what is said about its limits is true."""

import numpy as np
import pytest

from omni.sweeps.scaling import Coefficients, Run, fit

LAW = Coefficients(floor=1.7, a=400.0, b=410.0, alpha=0.34, beta=0.28)


def runs(noise):
    rng = np.random.default_rng(0)
    return [
        Run(size, tokens, float(LAW.loss(size, tokens) * np.exp(noise * rng.standard_normal())))
        for size in (10**5, 10**6, 10**7, 10**8)
        for tokens in (10**6, 10**7, 10**8, 10**9)
    ]


def test_a_law_is_found_again():
    found = fit(runs(0.0)).fitted
    assert found.alpha == pytest.approx(LAW.alpha, rel=0.02)
    assert found.beta == pytest.approx(LAW.beta, rel=0.02)
    assert found.floor == pytest.approx(LAW.floor, rel=0.05)
    assert found.loss(10**9, 10**10) == pytest.approx(LAW.loss(10**9, 10**10), rel=0.01)


def test_the_intervals_hold_the_truth_and_widen_beyond_the_data():
    law = fit(runs(0.01))
    near, far = law.interval(10**7, 10**8), law.interval(10**10, 10**12)
    assert near[0] < LAW.loss(10**7, 10**8) < near[1]
    assert far[1] / far[0] - 1 > 2 * (near[1] / near[0] - 1)
    assert law.largest == Run(10**8, 10**9, law.largest.loss)
    assert law.without_largest == pytest.approx(law.largest.loss, rel=0.05)
    assert law.error < 0.02


def test_the_best_allocation_is_a_minimum():
    flops = 1e17
    parameters, tokens = LAW.optimal(flops)
    assert 6 * parameters * tokens == pytest.approx(flops)
    for factor in (0.8, 1.25):
        assert LAW.loss(parameters * factor, tokens / factor) > LAW.loss(parameters, tokens)


def test_the_report_and_the_figure():
    law = fit(runs(0.01))
    text = "\n".join(law.report())
    assert "100.00 k to 100.00 M parameters" in text
    assert "Fitted without the largest run" in text
    axes = law.figure().axes[0]
    assert len(axes.get_legend().get_texts()) == 5
