# SPDX-License-Identifier: BSD-3-Clause
"""What kernels do not read: what it is called in an error, and the code that makes an array of it.

Kernels read memory in place. What would first have to be loaded, computed, densified or decided
upon is refused by name. The advice is an expression of ``x``, what was received; nothing here
imports a library, and nothing is converted.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from numbers import Number, Real
from typing import Any

__all__ = ["conversion", "elements", "is_sparse", "package", "title"]


def package(kind: type) -> str:
    """Return the top-level package that a class, or the first base that is no Python's, is from."""
    for base in kind.__mro__:
        name = base.__module__.partition(".")[0]
        if name not in _OWN:
            return name
    return ""


_OWN = ("builtins", "collections", "abc", "typing", "numpy", "__main__")


def title(x: object) -> str:
    """Return an object's class with its package, as "a Series of pandas"."""
    kind = type(x)
    home = kind.__module__.partition(".")[0]
    if home in ("builtins", "__main__"):
        return f"an object of class {kind.__name__}"
    return f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__} of {home}"


def is_sparse(x: object) -> bool:
    """Whether x is a sparse array of SciPy; some of them are mappings, too."""
    return any(
        base.__module__.startswith("scipy.sparse") and base.__name__ in ("_spbase", "spmatrix")
        for base in type(x).__mro__
    )


# -- Objects ---------------------------------------------------------------------------------------


def conversion(x: Any) -> str:
    """Return what to do with what is no array: code that makes one of it, or to leave it out."""
    if isinstance(x, (list, tuple)) and _are_numbers(x):
        return "pass numpy.asarray(x)"
    known = _CONVERSIONS.get(package(type(x)))
    if known is not None and (code := known(x)):
        return code
    if isinstance(x, Number):
        return "pass numpy.float64(x), or leave it out"
    if callable(getattr(x, "todense", None)):
        return "pass x.todense()"
    if callable(getattr(x, "to_numpy", None)):
        return "pass x.to_numpy()"
    if hasattr(x, "__array__"):
        return "pass numpy.asarray(x)"
    return "leave it out, or pass an array of its numbers"


def _are_numbers(x: Any) -> bool:
    if isinstance(x, (list, tuple)):
        return bool(x) and all(map(_are_numbers, x))
    return isinstance(x, Number)


def _stored(x: Any, code: str) -> str:
    """Advice for an array of a file, or for a group of them."""
    if not hasattr(x, "dtype"):
        return ""
    numbers = getattr(x.dtype, "kind", "f") not in "OSUTMmV"
    return f"pass {code}, which reads it into memory" if numbers else _NONE


_NONE = "leave it out: it holds no numbers"


def _of_pandas(x: Any) -> str:
    if not hasattr(x, "dtype"):  # a frame
        if all(dtype.kind in "iufb" for dtype in x.dtypes):
            return "pass x.to_numpy()" if not x.isna().any(axis=None) else _MISSING
        return "pass x.select_dtypes('number').to_numpy()"
    if x.dtype.kind not in "iufb":
        return _NONE
    return _MISSING if hasattr(x.dtype, "na_value") and x.isna().any() else "pass x.to_numpy()"


_MISSING = "pass x.to_numpy('float64', na_value=float('nan'))"


def _of_scipy(x: Any) -> str:
    if not is_sparse(x):
        return ""
    if x.format in ("csr", "csc") and x.has_canonical_format:
        return "pass x.data, its stored elements, or x.toarray()"
    if x.ndim > 2:
        return "pass x.toarray()"
    # Elements at one place stand for their sum; the diagonals of dia reach over the edge.
    return "pass x.tocoo().tocsr().data, its elements added up by place, or x.toarray()"


def _of_tensorflow(x: Any) -> str:
    if type(x).__name__ == "SparseTensor":
        return "pass tf.sparse.to_dense(tf.sparse.reorder(x)), or x.values"
    return ""


_CONVERSIONS: dict[str, Callable[[Any], str]] = {
    "dask": lambda x: "call fastreg.dask, or pass x.compute()",
    "h5py": lambda x: _stored(x, "x[()]"),
    "jax": lambda x: "pass x[...]" if type(x).__name__ == "Ref" else "",
    "pandas": _of_pandas,
    "scipy": _of_scipy,
    "tensorflow": _of_tensorflow,
    "xarray": lambda x: "pass x.to_numpy()",
    "zarr": lambda x: _stored(x, "x[...]") or "pass {name: a[...] for name, a in x.arrays()}",
}


# -- Elements --------------------------------------------------------------------------------------

_CASTS = {
    "tensorflow": "tf.cast(x, '{}')",
    "keras": "keras.ops.cast(x, '{}')",
}
# What holds every value of the types that begin so; wide floats and objects are rounded.
_WIDER = (
    ("float96", "float64"),
    ("float128", "float64"),
    ("longdouble", "float64"),
    ("float", "float32"),
    ("int", "int8"),
    ("uint", "uint8"),
)
_PARTS = {
    "tensorflow": "tf.stack([tf.math.real(x), tf.math.imag(x)])",
    "jax": "jax.numpy.stack([x.real, x.imag])",
    "keras": "keras.ops.stack([keras.ops.real(x), keras.ops.imag(x)])",
}


def elements(x: Any, name: str, home: str = "numpy") -> str:
    """Return what to do with an array of elements that no kernel reads.

    Parameters
    ----------
    x : array
        Of NumPy or a framework.
    name : str
        The name of its element type.
    home : str, default "numpy"
        Whose it is, as :func:`fastreg._core.frameworks.framework` says.
    """
    if name.startswith("complex"):
        parts = _PARTS.get(home, "numpy.stack([x.real, x.imag])")
        if home == "numpy" and x.ndim and x.strides[-1] == x.itemsize:
            parts = "x.view(x.real.dtype)"
        return f"pass {parts}, which keeps both parts, or abs(x), its modulus"
    fields = getattr(getattr(x, "dtype", None), "names", None)
    if fields and fields != ("float0",):
        return "pass [x[name] for name in x.dtype.names] to fastreg.penalty"
    if name.startswith(("qint", "quint")):
        return "pass what it was quantised from"
    if name == "object" and home == "numpy":
        return _objects(x)
    for prefix, wide in _WIDER:
        if name != "float0" and name.startswith(prefix):
            return f"pass {_CASTS.get(home, 'x.astype({!r})').format(wide)}"
    return _NONE


# An array of more objects is judged by its beginning.
_MOST_LOOKED_AT = 1000


def _objects(x: Any) -> str:
    """Advice for an array of Python objects, by what they are."""
    found = list(islice(x.flat, _MOST_LOOKED_AT)) if x.ndim else [x[()]]
    if all(isinstance(one, Real) for one in found):
        return "pass x.astype('float64')"
    if all(hasattr(one, "__array__") or _are_numbers(one) for one in found):
        return "pass [numpy.asarray(row) for row in x.flat] to fastreg.penalty"
    return _NONE
