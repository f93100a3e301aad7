"""From words to an exit code: parse, call the verb, print its result or its failure last."""

import json
import sys
import traceback
from collections.abc import Sequence
from math import isfinite
from shutil import get_terminal_size
from textwrap import fill

from cyclopts import CycloptsError, UnknownCommandError, UnknownOptionError, UnusedCliTokensError

from autounet.cli.app import app
from autounet.cli.failure import BUG, DONE, SOME_FAILED, STOPPED, CrashError, Failure, UsageError, bug, foreseen
from autounet.cli.session import Result
from autounet.cli.streams import say
from autounet.progress.wording import one_line, visible
from autounet.stop import Stopped
from planners.errors import in_words

_VALUED = {"--work", "--seed", "--device", "--threads", "--max-ram", "--stalled-after"}
_SWITCHES = {"--json", "--quiet", "-q", "--verbose", "-v", "--dry-run"}


def answer(words: Sequence[str]) -> int:
    """Run one command and say how it ended."""
    as_json = "--json" in words
    try:
        result = _call(_flags_last(words))
    except (Stopped, KeyboardInterrupt) as stopped:
        return _end(_stopped(str(stopped)), as_json)
    except CycloptsError as error:
        return _end(_usage(error, words), as_json)
    except SystemExit:  # how rich leaves when the reader of a help text, `| head` say, has seen enough
        return DONE
    except Exception as error:
        return _end(_failure(error), as_json)
    if result is None:  # help, printed by the parser
        return DONE
    return _finish(result, as_json)


def _call(words: list[str]) -> Result | None:
    command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    result = command(*bound.args, **bound.kwargs)
    return result if isinstance(result, Result) else None


def _flags_last(words: Sequence[str]) -> list[str]:
    """`autounet --quiet run X` means `autounet run X --quiet`: flags of every verb may stand before it."""
    rest, moved = list(words), []
    while rest and (rest[0] in _SWITCHES or rest[0].partition("=")[0] in _VALUED):
        takes = 2 if rest[0] in _VALUED and len(rest) > 1 else 1
        moved += rest[:takes]
        del rest[:takes]
    end = rest.index("--") if "--" in rest else len(rest)  # behind it, a flag would be a file name
    return [*rest[:end], *moved, *rest[end:]]


def _finish(result: Result, as_json: bool) -> int:
    code = SOME_FAILED if result.failed else DONE
    if as_json:
        failed = [{"case": one.case, "cause": one.cause, "remedy": one.remedy} for one in result.failed]
        plain = _finite({"result": result.plain, "failed_cases": [one.case for one in result.failed], "failed": failed, "code": code})
        say(json.dumps(plain, allow_nan=False, default=str))
        return code
    for line in result.lines:
        say(_folded(visible(line)))
    if result.failed:
        say(one_line(_last_line(result)), error=True)
    return code


def _last_line(result: Result) -> str:
    """One that failed says what and why; of several all are named, and the first that can says why."""
    count = len(result.failed)
    first = next((one for one in result.failed if one.cause), result.failed[0])
    if count == 1 and first.cause:
        return first.line
    names = ", ".join(one.case for one in result.failed[:5]) + (", …" if count > 5 else "")
    what = f"1 {result.unit}" if count == 1 else f"{count} {result.unit}s"
    why = "Mend what is explained above, then type the same command again."
    return f"error: {what} failed: {names}. {in_words(first.cause, first.remedy, first.case) if first.cause else why}"


def _finite(value: object) -> object:
    """JSON knows no NaN and no infinity, and strict readers refuse them: a number that is none becomes null."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value


def _folded(line: str) -> str:
    """Folded at words on a terminal, as the reader's program wants it elsewhere; a path is never cut."""
    if not sys.stdout.isatty():
        return line
    return fill(line, get_terminal_size().columns, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _end(failure: Failure, as_json: bool) -> int:
    if as_json:
        say(json.dumps(failure.plain()))
    else:
        say(one_line(failure.line), error=True)
    return failure.code


def _failure(error: Exception) -> Failure:
    record = error.record if isinstance(error, CrashError) else None
    cause = error.__cause__ if isinstance(error, CrashError) and error.__cause__ is not None else error
    known = foreseen(cause)
    if known is not None:
        return known
    assert BUG == 1
    say(visible("".join(traceback.format_exception(cause))), error=True)
    return bug(cause, record)


def _stopped(reason: str) -> Failure:
    by = f"stopped by {reason}" if reason else "stopped"
    return Failure(cause=f"{by}; what was finished is kept", remedy="type the same command again to go on", code=STOPPED)


def _usage(error: CycloptsError, words: Sequence[str]) -> Failure:
    """The parser's words in our form; it already looks for the nearest verb and flag."""
    verb = next((w for w in words if w in app), "")
    remedy = f"see `autounet {verb} --help`" if verb else "see `autounet --help`"
    cause = str(error)
    if isinstance(error, UnknownCommandError):
        cause = cause.partition(" Available commands:")[0]
    elif isinstance(error, UnusedCliTokensError):
        cause = "too many words: " + " ".join(error.unused_tokens or [])
    if isinstance(error, UnknownCommandError | UnknownOptionError) and " Did you mean" in cause:
        cause, _, meant = cause.partition(" Did you mean ")
        remedy = f"did you mean {meant.rstrip('?')}? Otherwise {remedy}"
    return foreseen(UsageError(cause.removeprefix(f'Command "{verb}" ') if verb else cause, remedy)) or bug(error, None)
