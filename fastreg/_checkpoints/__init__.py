# SPDX-License-Identifier: BSD-3-Clause
"""Readers of checkpoint files: ``.safetensors``, ``.npz`` and ``.npy``.

Four rules hold for every format.

*Nothing is executed.*  No pickle, no ``allow_pickle``, no class named by a file.

*Nothing is believed.*  A file is untrusted: every length, offset, shape and name in it is checked
against the size of the file before it is used, and the first thing that is wrong becomes one
:class:`~fastreg.errors.CheckpointError`.

*Nothing is copied that can be mapped.*  Tensors are read-only views of the mapped file.  Where the
bytes are not what kernels read (compressed members, the other byte order, floats of one byte), they
are converted piece by piece.

*Nothing is printed as it is.*  Messages quote a file escaped, and errors of the parsers, which may
quote it raw, are not shown as their cause.

A file that is cut short by somebody else *while* it is mapped ends the process with SIGBUS, as it
does for every program that maps files; sizes are checked when the file is opened.
"""
