"""Clearing up what dead runs left: temporaries, locks, half-removed entries."""

import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from autounet.store import calls
from autounet.store.files import OF, PART, remove_tree, sync_folder
from autounet.store.lock import AFTER, LOCK, release_if_dead
from autounet.store.owner import owner_of
from planners.errors import UserError

FOREIGN_PART_SECONDS = 2 * 86400  # a temporary of another machine, which cannot be asked, is rubbish after this


def sweep(folder: Path) -> int:
    """Remove temporaries and locks of dead processes anywhere below a folder; how many there were.

    What cannot be removed stays: a folder that may only be read is no reason to fail.
    """
    swept = 0
    for place, names, files in os.walk(folder):
        for name in sorted({*names, *files}):
            with suppress(OSError, UserError):
                if name.endswith(PART):
                    swept += _remove_part(Path(place, name))
                elif name.endswith((LOCK, AFTER)) and name in files:
                    swept += release_if_dead(Path(place, name))
        names[:] = [name for name in names if not name.endswith(PART)]
    return swept


def _remove_part(entry: Path) -> bool:
    tag, _, name = entry.name[1 : -len(PART)].partition(OF)
    if not _left_over(entry, tag):
        return False
    with suppress(FileNotFoundError):  # somebody else sweeps, too
        if name and not os.path.lexists(entry.with_name(name)):  # its owner died before the new one was in its place
            calls.replace(entry, entry.with_name(name))
            sync_folder(entry.parent)
        elif stat.S_ISDIR(entry.lstat().st_mode):
            remove_tree(entry)
        else:
            calls.unlink(entry)
    return True


def _left_over(entry: Path, tag: str) -> bool:
    owner = owner_of(tag)
    if owner is None:
        return False  # not ours, whatever it is
    dead = owner.dead()
    if dead is not None:
        return dead
    with suppress(OSError):
        return time.time() - entry.lstat().st_mtime > FOREIGN_PART_SECONDS
    return False
