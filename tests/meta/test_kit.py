# SPDX-License-Identifier: BSD-3-Clause
"""What the package gives to other programs is complete, and refuses what does not fit."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import drivers
import pytest
from test_golden import GOLDEN

import fastreg
from fastreg import _kernels
from fastreg.errors import ArgumentError

HEADER = (drivers.CSRC / "fastreg.h").read_text()
PUBLIC = re.findall(r"^FASTREG_API [\w \*]*?[ \*]fastreg_(\w+)\(", HEADER, re.MULTILINE)
SMALL = ("-O1", "-DFASTREG_BASELINE_ONLY")


def test_the_table_has_every_function():
    """Header, table, addresses and Cython's declarations name the same functions, in one order."""
    expected = [name for name in PUBLIC if name not in {"abi", "version"}]
    table = (Path(fastreg.get_include()) / "fastreg_capi.h").read_text()
    declared = (drivers.ROOT / "fastreg" / "capi.pxd").read_text()
    declared = declared.partition("ctypedef struct fastreg_capi:")[2]
    assert re.findall(r"\(\*(\w+)\)\(", table) == expected
    assert list(_kernels.addresses()) == expected
    assert re.findall(r"^        [\w \*]*?\(\*(\w+)\)\(", declared, re.MULTILINE) == expected


def test_addresses_are_of_the_functions():
    itemsize = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_int32)
    for name in ("itemsize", "fastreg_itemsize"):
        assert [itemsize(fastreg.get_function_address(name))(t) for t in range(4)] == [2, 2, 4, 8]
    for name in ("typo", "", 3, None):
        with pytest.raises(ArgumentError, match="expected one of"):
            fastreg.get_function_address(name)


def test_folders_hold_what_they_say():
    names = {p.name for p in Path(fastreg.get_include()).iterdir()}
    assert names == {"fastreg.h", "fastreg_capi.h", "fastreg_dlpack.h"}
    assert (Path(fastreg.get_include()) / "fastreg.h").read_text() == HEADER
    assert [Path(p).suffix for p in fastreg.get_sources()] == [".c"] * 3
    for folder in (fastreg.get_cmake_dir(), fastreg.get_pkgconfig_dir()):
        for path in Path(folder).iterdir():
            assert fastreg.__version__ in path.read_text() or path.name == "fastreg-config.cmake"


def test_the_command_prints_them():
    done = drivers.run([sys.executable, "-m", "fastreg", "config", "--includes", "--version"])
    assert done.stdout.split() == [f"-I{fastreg.get_include()}", fastreg.__version__]
    assert len(drivers.run([sys.executable, "-m", "fastreg", "config"]).stdout.splitlines()) == 4


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_flat_sources_give_the_golden_digest(tmp_path, compiler):
    """As they lie in one folder, without flags or warnings."""
    compiler = drivers.clang() if compiler == "clang" else drivers.tool(compiler)
    for path in fastreg.get_sources():
        shutil.copy(path, tmp_path)
    shutil.copy(Path(fastreg.get_include()) / "fastreg.h", tmp_path)
    golden = (drivers.ROOT / "tests/c/golden.c").read_text().replace("../../csrc/", "")
    (tmp_path / "golden.c").write_text(golden)
    program = drivers.compile_c(
        tmp_path / "golden",
        *(*SMALL, "-Wall", "-Wextra", "-Werror", *tmp_path.glob("*.c"), "-lm", "-lpthread"),
        compiler=compiler,
    )
    assert drivers.run([program]).stdout.strip() == GOLDEN


MODULE = """
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "fastreg.h"
#undef FASTREG_ABI
#define FASTREG_ABI {abi}
#include "fastreg_capi.h"
static struct PyModuleDef definition = {{PyModuleDef_HEAD_INIT, "other", 0, -1, 0, 0, 0, 0, 0}};
PyMODINIT_FUNC PyInit_other(void);
PyMODINIT_FUNC PyInit_other(void)
{{
    const fastreg_capi *const fr = fastreg_import();
    return fr && fr->itemsize(FASTREG_F64) == 8 ? PyModule_Create(&definition) : NULL;
}}
"""


@pytest.mark.parametrize("abi", [1, 2])
def test_a_module_of_another_abi_is_refused(tmp_path, abi):
    (tmp_path / "other.c").write_text(MODULE.format(abi=abi))
    flags = ["-shared", "-fPIC", f"-I{sysconfig.get_path('include')}", f"-I{fastreg.get_include()}"]
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    drivers.compile_c(tmp_path / f"other{suffix}", *flags, tmp_path / "other.c")
    found = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", "import other"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": found},
    )
    if abi == 1:
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert "ImportError: expected fastreg with ABI 2" in done.stderr
        assert "received ABI 1" in done.stderr


DLPACK = """
#include <stdint.h>
typedef struct { int32_t device_type, device_id; } DLDevice;
typedef struct { uint8_t code, bits; uint16_t lanes; } DLDataType;
typedef struct {
    void *data; DLDevice device; int32_t ndim; DLDataType dtype;
    int64_t *shape, *strides; uint64_t byte_offset;
} DLTensor;
#include "fastreg_dlpack.h"
int main(void)
{
    float x[] = {9, 3, 9, -4, 9, 9};
    int64_t shape[] = {2, 1}, strides[] = {2, 7};
    DLTensor t = {x, {1, 0}, 2, {2, 32, 1}, shape, strides, sizeof(float)};
    fastreg_array a;
    fastreg_extents e;
    double v = 0;
    if (fastreg_from_dlpack(&t, &a, &e) != FASTREG_OK)
        return 1;
    a.l2 = 0.5;
    if (fastreg_value(&a, 1, FASTREG_F32, 0, &v) != FASTREG_OK || v != 12.5)
        return 2;
    t.device.device_type = 2;
    if (fastreg_from_dlpack(&t, &a, &e) != FASTREG_BAD_DEVICE)
        return 3;
    t.device.device_type = 1, t.dtype.code = 5;
    return fastreg_from_dlpack(&t, &a, &e) == FASTREG_BAD_DTYPE ? 0 : 4;
}
"""


def test_a_dltensor_is_an_array(tmp_path):
    (tmp_path / "use.c").write_text(DLPACK)
    objects = drivers.library(drivers.tool("cc"), *SMALL)
    program = drivers.compile_c(
        tmp_path / "use", f"-I{drivers.CSRC}", tmp_path / "use.c", *objects, "-lpthread", "-lm"
    )
    assert drivers.run([program]).returncode == 0
