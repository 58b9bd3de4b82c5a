# SPDX-License-Identifier: BSD-3-Clause
import ctypes

import numba
import numpy as np

import fastreg

array = np.dtype(
    [
        ("data", "u8"),
        ("gradient", "u8"),
        ("shape", "u8"),
        ("strides", "u8"),
        ("gradient_strides", "u8"),
        ("ndim", "i4"),
        ("dtype", "i4"),
        ("l1", "f8"),
        ("l2", "f8"),
    ]
)
F32 = 2
size = ctypes.c_size_t
value = ctypes.CFUNCTYPE(ctypes.c_int32, size, size, ctypes.c_int32, size, size)(
    fastreg.get_function_address("value")
)


@numba.njit(parallel=True)
def penalties(arrays, step, out):
    """The penalty of each array, on numba's threads."""
    for i in numba.prange(len(out)):
        value(arrays + i * step, 1, F32, 0, out[i:].ctypes.data)


x = (np.arange(1000 * 64, dtype=np.float32) % 1009 - 504).reshape(-1, 64)
shape = np.array(x.shape[1:], np.int64)
rows = np.zeros(len(x), array)
rows["data"] = x.ctypes.data + x.strides[0] * np.arange(len(x))
rows["shape"], rows["ndim"], rows["dtype"], rows["l2"] = shape.ctypes.data, 1, F32, 0.5
out = np.empty(len(x))
penalties(rows.ctypes.data, rows.itemsize, out)
exact = np.square(x.astype(np.int64)).sum(1) / 2
assert np.array_equal(out, exact.astype(np.float32))
print(out[0])
