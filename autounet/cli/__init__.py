"""The command line: words in, one call of the job, an exit code out."""

import sys
from collections.abc import Sequence

from autounet import __version__
from autounet.cli.streams import mend_streams, say


def main(words: Sequence[str] | None = None) -> int:
    """Answer one command; the exit code is 0 done, 1 our bug, 2 usage, 3 some cases failed, 4 user error, 75 stopped."""
    mend_streams()
    given = list(sys.argv[1:] if words is None else words)
    if given in (["--version"], ["-V"]):  # asked by scripts in loops: nothing else is loaded
        say(f"autounet {__version__}")
        return 0
    from autounet.cli.answer import answer

    return answer(given)
