# SPDX-License-Identifier: BSD-3-Clause
"""scikit-learn's digits, and the comparison that every pattern ends with."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from sklearn.datasets import load_digits

data = load_digits()
x = (data.data / 16.0).astype("float32")
y = data.target.astype("int32")


def compare(name, reference, ours, rtol=1e-6):
    """Print both lists of losses; fail if they differ or did not change."""
    print(f"{name}: reference {reference}, fastreg {ours}")
    np.testing.assert_allclose(ours, reference, rtol=rtol)
    assert len(set(map(float, ours))) == len(ours), "nothing was learned"
