"""Every call of the store into the operating system, by name.

Nothing else in the store touches a file for writing. A test replaces one of these names to make the
n-th call fail, write half, or be the last one of the process; the product has no switch for it.
"""

import errno
import os

_NO_SWAP = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)  # kernel, file system or a container's filter

open_file = os.open
read = os.read
read_into = os.readv
write = os.write
pwrite = os.pwrite
fsync = os.fsync
fchmod = os.fchmod
chmod = os.chmod
close = os.close
replace = os.replace
link = os.link
unlink = os.unlink
mkdir = os.mkdir
rmdir = os.rmdir


def exchange(first: str, second: str) -> bool:
    """Swap two names in one step; False where the system or the file system cannot."""
    import ctypes

    at_cwd, exchange_flag = -100, 2
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    if renameat2(at_cwd, os.fsencode(first), at_cwd, os.fsencode(second), exchange_flag) == 0:
        return True
    if (number := ctypes.get_errno()) in _NO_SWAP:
        return False
    raise OSError(number, os.strerror(number), first, None, second)
