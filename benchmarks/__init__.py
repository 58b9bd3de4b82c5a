# SPDX-License-Identifier: BSD-3-Clause
"""The benchmark suite: one file per question; ``python -m fastreg bench`` runs it."""
