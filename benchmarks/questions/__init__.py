# SPDX-License-Identifier: BSD-3-Clause
"""One file per question, with a function for each thing that is timed."""
