# SPDX-License-Identifier: BSD-3-Clause
"""The one detector: an object is judged by where its class comes from, and nothing is imported."""

from __future__ import annotations

import pytest

from fastreg._core import frameworks


def of(module: str, name: str, *bases: type, **attributes: object) -> object:
    """An object of a class that claims to come from a framework."""
    return type(name, bases, {"__module__": module, **attributes})()


def test_frameworks_are_judged_by_the_class_alone():
    class Fake:
        pass

    for module, name in [("torch", "torch"), ("tensorflow.python.x", "tensorflow"),
                         ("jaxlib._jax", "jax"), ("jax._src.core", "jax"), ("keras.src", "keras"),
                         ("torchvision", "numpy"), ("mine", "numpy")]:  # fmt: skip
        kind = type("T", (Fake,), {"__module__": module})
        assert frameworks.framework(kind()) == name
        assert frameworks.framework(type("U", (kind,), {"__module__": "mine"})()) == name


def test_symbolic_tensors_are_known_by_their_class():
    for package in ("keras.src.backend", "tf_keras.src.engine"):
        kind = type("KerasTensor", (), {"__module__": package})
        assert frameworks.framework(kind()) == "keras"
        assert frameworks.is_symbolic(kind())
        assert frameworks.unwrap(x := kind()) is x


def test_variables_of_tf_keras_are_tensorflows():
    variable = type("Variable", (), {"__module__": "tensorflow.python.ops.variables"})
    wrapped = type("AutoCastVariable", (variable,), {"__module__": "tf_keras.src.mixed_precision"})
    assert frameworks.framework(wrapped()) == "tensorflow"
    assert not frameworks.is_symbolic(wrapped())


@pytest.mark.parametrize(
    ("x", "variable", "model"),
    [
        (of("keras.src.backend", "Variable"), True, False),
        (of("tensorflow.python.ops", "ResourceVariable"), True, False),
        (of("keras.src.layers", "Layer"), False, True),
        (of("tf_keras.src.engine", "Layer"), False, True),
        (of("tensorflow.python.module", "Module"), False, True),
        (of("keras.src.optimizers", "Optimizer"), False, False),
        (of("mine", "Layer"), False, False),
        (of("mine", "Variable"), False, False),
        (3.0, False, False),
    ],
    ids=lambda x: f"{type(x).__module__}.{type(x).__name__}" if not isinstance(x, bool) else str(x),
)
def test_variables_and_models(x, variable, model):
    assert frameworks.is_variable(x) == variable
    assert frameworks.is_model(x) == model
    assert not frameworks.is_torch_module(x)


def test_modules_of_torch_are_its_own():
    assert frameworks.is_torch_module(of("mine", "Net", type(of("torch.nn.modules", "Module"))))
    assert not frameworks.is_torch_module(of("torch", "Tensor"))
    assert not frameworks.is_torch_module(of("tensorflow.python", "Module"))


def test_unwrapping_asks_a_variable_of_keras_for_its_value():
    assert frameworks.unwrap(of("keras.src", "Variable", value=1.5)) == 1.5
    assert frameworks.unwrap(of("keras.src", "Variable", value=lambda self: 2.5)) == 2.5
    for x in (of("keras.src", "Layer"), of("torch", "Tensor", value=1.5), 3.0):
        assert frameworks.unwrap(x) is x


def test_classes_made_in_a_loop_do_not_pile_up():
    for _ in range(frameworks._MOST_KNOWN + 10):
        assert frameworks.framework(of("jax", "Array")) == "jax"
    assert len(frameworks._known) <= frameworks._MOST_KNOWN


def test_every_framework_has_a_backend_and_a_name():
    assert frameworks.NAMES.keys() == frameworks._BACKENDS.keys()
    assert set(frameworks._PACKAGES.values()) == frameworks.NAMES.keys() - {"numpy"}


def test_hooks_are_called_at_every_introduction(monkeypatch):
    called = []
    monkeypatch.setattr(frameworks, "_introductions", [])
    frameworks.on_introduce(lambda: called.append(1))
    frameworks.introduce()
    frameworks.introduce()
    assert called == [1, 1]
