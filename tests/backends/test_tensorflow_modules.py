# SPDX-License-Identifier: BSD-3-Clause
"""What a ``tf.Module`` holds: every variable, under the class that owns it."""

from __future__ import annotations

import os

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="tensorflow is not installed")

import fastreg  # noqa: E402
import fastreg.tensorflow as backend  # noqa: E402
from fastreg.errors import NonFiniteError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


def variable(value, name, **options):
    return tf.Variable(np.full((2, 2), value, np.float32), name=name, **options)


class LayerNorm(tf.Module):
    def __init__(self):
        super().__init__()
        self.w = variable(9.0, "w")


class Net(tf.Module):
    """With attributes called as Keras calls its own."""

    def __init__(self):
        super().__init__()
        self.kernel = variable(2.0, "kernel")
        self.norm = variable(3.0, "projection")  # named otherwise than it is held
        self.ln = LayerNorm()
        self.weights = [1, 2]
        self.layers = "mine"
        self.built = False
        self.statistic = variable(1.0, "statistic", trainable=False)


def test_the_class_that_owns_a_variable_decides():
    net = Net()
    for to in (fastreg, backend):
        assert float(to.penalty(net, l2=1.0)) == 16.0 + 36.0
        assert float(to.penalty({"net": net}, l2=1.0)) == 16.0 + 36.0
        assert to.stats(net).total["sum_squares"] == 16.0 + 36.0 + 324.0 + 4.0
    assert set(backend.gradient(net, l2=1.0)) == {"kernel", "projection"}


def test_what_is_not_trained_is_looked_at():
    net = Net()
    fastreg.check_finite(net)
    net.statistic.assign([[0.0, np.nan], [0.0, 0.0]])
    with pytest.raises(NonFiniteError, match=r"'statistic' \(1 NaN"):
        fastreg.check_finite(net)
