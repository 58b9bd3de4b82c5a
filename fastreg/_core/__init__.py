# SPDX-License-Identifier: BSD-3-Clause
"""What all of fastreg shares and nobody else may import: types, arguments, arrays, containers."""
