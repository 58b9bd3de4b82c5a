# SPDX-License-Identifier: BSD-3-Clause
"""Files that are not read, and how what is in them comes into one that is."""

from __future__ import annotations

from collections.abc import Sequence

from fastreg.errors import CheckpointError, message, printable

__all__ = ["SUFFIXES", "archive", "cut_archive", "is_page", "refusal"]

_EXPECTED = ".safetensors, .npz or .npy content"

# Advice is a line or two of Python that the tests run. Names in it are examples: a file's own name
# could hold anything.
_TORCH = (
    "where you trust it: state = torch.load('model.pt', map_location='cpu', weights_only=True); "
    "safetensors.torch.save_file({k: v.contiguous().clone() for k, v in state.items()}, "
    "'model.safetensors')"
)
_KERAS = (
    "where you trust it: model = keras.models.load_model('model.keras'); "
    "numpy.savez('model.npz', **{w.path: keras.ops.convert_to_numpy(w) for w in model.weights}); "
    "from tf_keras: model = tf_keras.models.load_model('model.keras'); "
    "numpy.savez('model.npz', **{w.name: w.numpy() for w in model.weights}); "
    "for a file of weights alone, build the model and call model.load_weights first"
)
# What an optimizer keeps lies beside the weights, and has their shapes.
_HDF5 = (
    "found = {}; h5py.File('model.h5').visititems(lambda k, v: found.update({k: v[()]}) "
    "if isinstance(v, h5py.Dataset) and v.dtype.kind in 'fiub' "
    "and not k.startswith('optimizer') else None); "
    "numpy.savez('model.npz', **found)"
)
_PICKLE = "where you trust it, load it and save its arrays with numpy.savez"
_GGUF = "its blocks are quantised: give the .safetensors that it was converted from"
_ONNX = (
    "numpy.savez('model.npz', **{t.name: onnx.numpy_helper.to_array(t) "
    "for t in onnx.load('model.onnx').graph.initializer})"
)
_TENSORFLOW = (
    "reader = tf.train.load_checkpoint('folder/ckpt'); numpy.savez('model.npz', "
    "**{k: reader.get_tensor(k) for k in reader.get_variable_to_dtype_map() "
    "if not k.startswith('_')})"
)
_FLAX = "load it with flax.serialization.msgpack_restore and save its arrays with numpy.savez"
_LFS = "run git lfs pull, which fetches the file itself"

# By suffix, where the content says nothing by itself.
_BY_SUFFIX = {
    ".bin": ("a file of PyTorch", _TORCH),
    ".ckpt": (
        "a checkpoint of a framework",
        f"from PyTorch, {_TORCH}; from TensorFlow, {_TENSORFLOW}",
    ),
    ".gguf": ("a GGUF file", _GGUF),
    ".h5": ("an HDF5 file", _HDF5),
    ".hdf5": ("an HDF5 file", _HDF5),
    ".index": ("a checkpoint of TensorFlow", _TENSORFLOW),
    ".joblib": ("a pickle, which is never loaded", _PICKLE),
    ".keras": ("a model of Keras", _KERAS),
    ".msgpack": ("a checkpoint of Flax", _FLAX),
    ".onnx": ("an ONNX model", _ONNX),
    ".pickle": ("a pickle, which is never loaded", _PICKLE),
    ".pkl": ("a pickle, which is never loaded", _PICKLE),
    ".pt": ("a file of PyTorch", _TORCH),
    ".pth": ("a file of PyTorch", _TORCH),
}
SUFFIXES = frozenset(_BY_SUFFIX)
"""Of files that hold weights and are not read."""

# How good files of these suffixes begin.
_HEADS = {
    ".gguf": (b"GGUF",),
    ".h5": (b"\x89HDF",),
    ".hdf5": (b"\x89HDF",),
    ".joblib": (b"\x80", b"x", b"\x1f\x8b", b"BZ", b"\xfd7zXZ", b"]\0\0\x80\0"),
    ".keras": (b"PK",),
    ".npy": (),
    ".npz": (),
    ".pickle": (b"\x80", b"(", b"]", b"}", b"c"),
    ".pkl": (b"\x80", b"(", b"]", b"}", b"c", b"\x1f\x8b"),
    ".pt": (b"PK", b"\x80"),
    ".pth": (b"PK", b"\x80"),
}
_PAGES = (b"<!doctype", b"<html", b"<?xml")

_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


def is_page(head: bytes) -> bool:
    """Whether a file is what a server says instead of the file."""
    return head.lstrip()[:9].lower().startswith(_PAGES)


def refusal(head: bytes, suffix: str) -> CheckpointError:
    """Word why a file with this beginning and this (lower-case) suffix is not read."""
    if head.startswith(b"version https://git-lfs"):
        received, action = "a Git LFS pointer, which stands for the file", _LFS
    elif head.startswith(b"\x89HDF"):
        received, action = _BY_SUFFIX[".h5"]
    elif head.startswith(b"GGUF"):
        received, action = _BY_SUFFIX[".gguf"]
    elif head[:1] == b"\x80" and suffix in _TORCH_SUFFIXES:
        received, action = "a file of PyTorch, which is a pickle and never loaded", _TORCH
    elif head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        received, action = "a pickle, which is never loaded", _PICKLE
    elif is_page(head):
        received, action = "a page of the web", "download the file itself; it may need a login"
    elif not head.startswith(_HEADS.get(suffix, b"")):
        received = f"a {suffix} file that starts with {head[:6]!r}"
        action = "it is damaged or misnamed: save or download it again"
    elif suffix in _BY_SUFFIX:
        received, action = _BY_SUFFIX[suffix]
    else:
        received = f"a file that starts with {head[:8]!r}"
        action = "save the weights as one of these"
    return CheckpointError(message(_EXPECTED, received, action))


def cut_archive(head: bytes, suffix: str) -> CheckpointError:
    """Word why a zip archive of this beginning is not read: its end is missing."""
    received, action = "one without", "the file is cut short: save or download it again"
    if b"/data.pkl" in head or suffix in _TORCH_SUFFIXES:
        received, action = "a file of PyTorch without", f"{action}; then, {_TORCH}"
    elif suffix == ".keras":
        received, action = "a model of Keras without", f"{action}; then, {_KERAS}"
    return CheckpointError(
        message("a zip archive with its directory, at the end", received, action)
    )


def archive(names: Sequence[str]) -> CheckpointError:
    """Word why a zip archive without a ``.npy`` is not read."""
    ends = {name.rpartition("/")[2] for name in names}
    if "data.pkl" in ends:
        received, action = "a file of PyTorch, which is a pickle and never loaded", _TORCH
    elif "model.weights.h5" in ends:
        received, action = _BY_SUFFIX[".keras"]
    else:
        received = f"a zip archive without a .npy in it, but with '{printable(names[0], 80)}'"
        action = "unpack it and give the checkpoint inside"
    return CheckpointError(message(_EXPECTED, received, action))
