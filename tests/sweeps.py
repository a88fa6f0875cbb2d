"""Sweeps of cases, of which the quick suite runs the first."""

import pytest


def sweep(cases, *, quick):
    """Returns the cases for ``pytest.mark.parametrize``: the first ``quick`` as they are, the others marked slow."""
    cases = list(cases)
    values = (case if isinstance(case, tuple) else (case,) for case in cases[quick:])
    return cases[:quick] + [pytest.param(*each, marks=pytest.mark.slow) for each in values]
