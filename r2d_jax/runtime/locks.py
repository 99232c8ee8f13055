"""One process at a time; in: an open file or a folder, out: whether it is this one's until it ends."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator
from typing import IO


def take_lock(file: int | IO[bytes]) -> bool:
    """Lock an open file or folder until it is closed or the process ends, however it ends; False: another has it.

    On a file system without such locks the answer is True, and nobody is kept out.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


@contextlib.contextmanager
def alone_in(folder: pathlib.Path) -> Iterator[bool]:
    """Keep others that ask out of a folder until the block ends; yields False where another is in it already.

    Processes of one machine keep each other out. The folder itself is locked and no file in it, so NFS, which locks
    files only, keeps nobody out, and the lock of a machine that went down there keeps no run from going on.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield take_lock(descriptor)
    finally:
        os.close(descriptor)
