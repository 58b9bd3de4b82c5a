# SPDX-License-Identifier: BSD-3-Clause
from Cython.Build import cythonize
from setuptools import Extension, setup

import fastreg

rows = Extension(
    "rows",
    ["rows.pyx"],
    include_dirs=[fastreg.get_include()],
    extra_compile_args=["-O3", "-fopenmp"],
    extra_link_args=["-fopenmp"],
)
setup(name="rows", ext_modules=cythonize([rows], language_level=3))
