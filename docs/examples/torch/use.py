# SPDX-License-Identifier: BSD-3-Clause
import os

import torch
from torch.utils import cpp_extension

import fastreg

extension = cpp_extension.load(
    "penalty",
    ["penalty.cpp"],
    extra_include_paths=[fastreg.get_include()],
    extra_cflags=["-O1"],
    extra_ldflags=[
        f"-L{os.path.join(os.path.dirname(fastreg.__file__), 'lib')}",
        "-lfastreg",
        "-fopenmp",
    ],
    build_directory=os.environ["OUT"],
)
x = (torch.arange(4000, dtype=torch.float32) % 17 - 8).reshape(50, 80).T.requires_grad_()
value = extension.penalty(x, 0.5, 0.25)
value.backward()
y = x.detach().clone().requires_grad_()
other = fastreg.torch.penalty([y], l1=0.5, l2=0.25, select="all")
other.backward()
exact = x.detach().abs().sum().double() / 2 + x.detach().double().square().sum() / 4
assert value == other == exact.float()
assert torch.equal(x.grad, y.grad)
print(float(value))
