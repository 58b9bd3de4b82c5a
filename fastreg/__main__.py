# SPDX-License-Identifier: BSD-3-Clause
"""Run the command line: ``python -m fastreg``."""

import sys

from fastreg.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
