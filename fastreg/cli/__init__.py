# SPDX-License-Identifier: BSD-3-Clause
"""The command line, and the readers of checkpoint files that only it needs."""
