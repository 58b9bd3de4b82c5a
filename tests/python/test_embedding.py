# SPDX-License-Identifier: BSD-3-Clause
"""What a wheel carries for other programs: folders that hold what they say, addresses that work."""

from __future__ import annotations

import ctypes
import os

import numpy as np
import pytest

import fastreg
from fastreg.errors import ArgumentError


@pytest.mark.parametrize(
    ("folder", "files"),
    [
        (fastreg.get_include, {"fastreg.h", "fastreg_capi.h", "fastreg_dlpack.h"}),
        (fastreg.get_cmake_dir, {"fastreg-config.cmake"}),
        (fastreg.get_pkgconfig_dir, {"fastreg.pc"}),
    ],
)
def test_folders_hold_what_they_say(folder, files):
    assert os.path.isabs(folder())
    assert files <= set(os.listdir(folder()))


def test_sources_are_absolute_and_sorted():
    sources = fastreg.get_sources()
    assert sources == sorted(sources)
    assert all(os.path.isabs(path) and os.path.isfile(path) for path in sources)


def test_an_address_is_that_of_the_function():
    address = fastreg.get_function_address("fastreg_itemsize")
    assert address == fastreg.get_function_address("itemsize")
    itemsize = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_int32)(address)
    assert [itemsize(code) for code in range(-1, 14)] == [
        0, 2, 2, 4, 8, 1, 1, 1, 2, 2, 4, 4, 8, 8, 0,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["", "fastreg_", "fr_pass", "fastreg_fastreg_value", None, 3, b"value", np.str_("no")]
)
def test_other_names_are_refused_with_those_that_are_there(name):
    with pytest.raises(ArgumentError, match=r"one of .*\bvalue\b.*received "):
        fastreg.get_function_address(name)
