"""`python -m autounet` is `autounet`."""

import sys

from autounet.cli import main

if __name__ == "__main__":
    sys.exit(main())
