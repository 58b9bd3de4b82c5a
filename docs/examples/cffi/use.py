# SPDX-License-Identifier: BSD-3-Clause
import cffi
import numpy as np

import fastreg

ffi = cffi.FFI()
ffi.cdef(
    """
    typedef struct {
        const void *data; void *gradient;
        const ptrdiff_t *shape, *strides, *gradient_strides;
        int ndim; int32_t dtype; double l1, l2;
    } fastreg_array;
    """
)
F32 = 2
value = ffi.cast(
    "int32_t (*)(const fastreg_array *, size_t, int32_t, const void *, double *)",
    fastreg.get_function_address("value"),
)

x = np.array([[3, -4], [12, 5]], np.float32)
shape, strides = ffi.new("ptrdiff_t[]", x.shape), ffi.new("ptrdiff_t[]", x.T.strides)
a = ffi.new("fastreg_array *")
a.data, a.shape, a.strides, a.ndim = ffi.from_buffer(x), shape, strides, 2
a.dtype, a.l1, a.l2 = F32, 1.0, 0.5
result = ffi.new("double *")
assert value(a, 1, F32, ffi.NULL, result) == 0
assert result[0] == 24 + 194 / 2
print(result[0])
