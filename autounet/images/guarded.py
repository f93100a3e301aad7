"""Libraries that raise whatever damaged content leads them to, made to say one sentence; our own bugs keep their traceback."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from autounet.images.source import Named, printable
from planners.errors import UserError


@contextmanager
def guarded(source: Named, library: str) -> Iterator[None]:
    """Turn errors raised inside a library, on behalf of this file, into an error of the file; silence its remarks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if not _raised_inside(error, library):
                raise
            raise source.refuse(f"is damaged: {said(error)}", "copy or export the file again") from None


def said(error: BaseException) -> str:
    """The message of an error in one short line."""
    return printable(" ".join(str(error).split()), 120) or type(error).__name__


def _raised_inside(error: BaseException, library: str) -> bool:
    trace = error.__traceback__
    while trace is not None:
        if str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0] == library:
            return True
        trace = trace.tb_next
    return False
