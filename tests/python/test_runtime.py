# SPDX-License-Identifier: BSD-3-Clause
"""What is in use, as the package tells it; tests/python/test_process.py has threads and levels."""

from __future__ import annotations

import drivers
import hooks
import pytest

import fastreg
from fastreg.errors import ArgumentError

KEYS = {
    "version", "isa", "isa chosen by", "isa available", "isa compiled", "openmp", "threads",
    "threads chosen by", "compiler", "machine", "python", "numpy",
}  # fmt: skip


def test_the_configuration_is_what_the_functions_say():
    config = fastreg.show_config("dict")
    assert config.keys() >= KEYS
    assert config["isa"] == fastreg.get_isa()
    assert config["isa available"] == hooks.levels()
    assert config["threads"] == fastreg.get_num_threads()


def test_it_is_printed_a_line_each(capsys):
    assert fastreg.show_config() is None
    lines = capsys.readouterr().out.splitlines()
    for line, (key, value) in zip(lines, fastreg.show_config("dict").items(), strict=True):
        assert line.startswith(f"{key} ")
        assert line.endswith(value[-1] if isinstance(value, list) else str(value))


def test_it_names_who_chose():
    code = "import fastreg; fastreg.show_config()"
    text = drivers.python(code, FASTREG_NUM_THREADS="3", FASTREG_ISA="baseline")
    assert "FASTREG_NUM_THREADS=3\n" in text
    assert "FASTREG_ISA=baseline\n" in text


@pytest.mark.parametrize("mode", ["json", None, 1])
def test_other_modes_are_refused(mode):
    with pytest.raises(ArgumentError, match=r"expected mode 'print' or 'dict'; received"):
        fastreg.show_config(mode)


def test_none_returns_to_the_setting_before():
    before = fastreg.get_num_threads()
    try:
        fastreg.set_num_threads(1)
        assert fastreg.get_num_threads() == 1
        with fastreg.num_threads(None):
            assert fastreg.get_num_threads() == 1
    finally:
        fastreg.set_num_threads(None)
    assert fastreg.get_num_threads() == before
