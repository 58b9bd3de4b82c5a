# SPDX-License-Identifier: BSD-3-Clause
"""What is no weight, by class and by name; classes that only say where they come from will do."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import fastreg
from fastreg._core import roles
from fastreg.errors import DTypeError


def class_of(name, module, *bases):
    return type(name, bases, {"__module__": module})


Variable = class_of("Variable", "flax.nnx.variablelib")
Param = class_of("Param", "flax.nnx.variablelib", Variable)
BatchStat = class_of("BatchStat", "flax.nnx.variablelib", Variable)
OptState = class_of("OptState", "flax.nnx.training.optimizer", Variable)


@pytest.mark.parametrize(
    ("kind", "role"),
    [
        (
            class_of("ScaleByAdamState", "optax._src.transform", tuple),
            "of an optimizer, by the class ScaleByAdamState",
        ),
        (class_of("Transform", "optax._src.base", tuple), ""),
        (class_of("MyState", "mine", tuple), ""),
        (OptState, "of an optimizer, by the class OptState"),
        (class_of("OptVariable", "flax.nnx.training.optimizer", OptState),
         "of an optimizer, by the class OptVariable"),
        (BatchStat, "no Param, by the class BatchStat"),
        (class_of("Running", "mine", BatchStat), "no Param, by the class Running"),
        (class_of("Mine", "mine", Variable), ""),
        (Variable, ""),
        (Param, ""),
        (class_of("Lora", "mine", Param), ""),
        (class_of("Variable", "flax.core.scope"), ""),
        (dict, ""),
    ],
)  # fmt: skip
def test_a_class_says_what_it_is_for(kind, role):
    assert roles.role_of(kind) == role
    assert roles.role_of(kind) == role  # as remembered


def test_classes_that_are_made_in_a_loop_do_not_pile_up():
    for k in range(2 * roles._MOST_CLASSES):
        kind = class_of(f"S{k}State", "optax.mine", tuple)
        assert roles.role_of(kind).endswith(f"S{k}State")
    assert len(roles._by_class) <= roles._MOST_CLASSES
    roles._by_class.clear()


def test_references_and_their_holders():
    assert roles.is_reference(Param)
    assert not roles.is_reference(class_of("Variable", "flax.core.scope"))
    assert roles.holds_references(class_of("Module", "flax.nnx.module"))
    assert not roles.holds_references(class_of("Module", "torch.nn.modules.module"))


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("opt_state.mu.kernel", False),
        ("optimizer_state_dict.0.kernel", False),
        ("optim_1.kernel", False),
        ("Optimizer.variables.kernel", False),
        ("optimiser_slots.kernel", False),
        ("layer.exp_avg_sq", False),
        ("layer.max_exp_avg_sqs", False),
        ("layer.momentum_buffer", False),
        ("optional.kernel", True),
        ("options.kernel", True),
        ("my_optimizer.kernel", True),
        ("layer.my_exp_avg", True),
        ("exp_avg.kernel", True),
    ],
)
def test_names_of_what_optimizers_keep(name, counts):
    x = np.full((2, 2), 3.0)
    params = {"w.kernel": np.ones((1, 1)), name: x}
    assert fastreg.penalty(params, l2=1.0, select="all") == (37.0 if counts else 1.0)
    assert fastreg.global_norm(params) == 37.0**0.5


@pytest.mark.parametrize(
    ("params", "action"),
    [([np.ones(2)], r"for p in group\['params'\]"), ([0, 1], "checkpoint")],
)
def test_groups_of_an_optimizer_are_refused_with_what_to_pass(params, action):
    with pytest.raises(DTypeError, match=f"group of parameters with its options; .*{action}"):
        fastreg.penalty([{"params": params, "lr": 0.1}], l2=1.0)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("Optimizer", "torch.optim.optimizer"),
        ("BaseOptimizer", "keras.src.optimizers.base_optimizer"),
        ("OptimizerV2", "tf_keras.src.optimizers.legacy"),
    ],
)
def test_an_optimizer_is_refused_with_what_to_pass(name, module):
    kind = class_of("Adam", "mine", class_of(name, module))
    assert roles.is_optimizer(kind())
    assert "pass the model whose weights it trains" in str(roles.bad_leaf("'o'", kind(), "an Adam"))
    assert not roles.is_optimizer(class_of(name, "mine")())


def test_keys_and_numbers_by_what_they_are():
    assert roles.number_or_key(SimpleNamespace(), "key<fry>") == "a key of random numbers"
    assert roles.number_or_key(1.0, "float64") == "a number of Python"
    assert roles.number_or_key(True, "bool") == "a number of Python"
    assert roles.number_or_key(np.float64(1.0), "float64") == ""
    assert not roles.is_traced_number(np.ones(()), None)
    assert not roles.is_traced_number(np.ones(()), "Layer")
