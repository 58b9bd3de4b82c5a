# SPDX-License-Identifier: BSD-3-Clause
import ctypes
import sys

import jax
import numpy as np

library = ctypes.CDLL(sys.argv[1])
jax.ffi.register_ffi_target("penalty", jax.ffi.pycapsule(library.Penalty), platform="cpu")


@jax.jit
def penalty(x):
    return jax.ffi.ffi_call("penalty", jax.ShapeDtypeStruct((), np.float32))(x, l2=0.5)


x = np.arange(1000, dtype=np.float32).reshape(10, 100)
assert penalty(x) == np.float32(sum(i * i for i in range(1000)) / 2)
print(penalty(x))
