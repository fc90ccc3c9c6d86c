"""`python -m hashnet` is the `hashnet` command."""

import sys

from hashnet.cli import main

if __name__ == "__main__":
    sys.exit(main())
