# SPDX-License-Identifier: BSD-3-Clause
"""What runs a question: cases, rivals, limits, laps, a budget."""
