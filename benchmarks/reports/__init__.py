# SPDX-License-Identifier: BSD-3-Clause
"""What is made of records: tables, figures, floors, the guard."""
