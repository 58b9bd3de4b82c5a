# SPDX-License-Identifier: BSD-3-Clause
"""Steps in place, groups and weights of random arrays against the oracle."""

from __future__ import annotations

import pytest
import random_comparison


@pytest.mark.parametrize("seed", range(2))
def test_random_steps_are_the_oracles(seed, soak):
    done, wrong = random_comparison.compare(500_000 if soak else 4000, seed)
    assert wrong == []
    assert done >= 4000
