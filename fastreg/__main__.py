# SPDX-License-Identifier: BSD-3-Clause
"""Run the command line: ``python -m fastreg``."""

import sys

import fastreg

if __name__ == "__main__":
    if not hasattr(fastreg, "penalty"):  # installed over by the other distribution of this name
        from fastreg._installation import REPAIR
        from fastreg.errors import message

        found = f"the package fastreg of another distribution in {fastreg.__file__}"
        sys.exit(message("fastreg-kernels", found, REPAIR))
    from fastreg.cli.main import main

    sys.exit(main())
