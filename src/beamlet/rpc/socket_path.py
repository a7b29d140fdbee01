"""Names of Unix sockets that fit into a socket address, however long their path is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

#: sun_path holds 108 bytes with its NUL; longer paths go through /proc/self/fd.
_MAX_PATH_BYTES = 100


@contextmanager
def short_socket_path(path: str | os.PathLike[str]) -> Iterator[str]:
    """A name of ``path`` that fits into a socket address, valid inside the block: for bind or connect."""
    text = os.fspath(path)
    if len(os.fsencode(text)) <= _MAX_PATH_BYTES:
        yield text
        return
    directory = os.open(os.path.dirname(text), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{os.path.basename(text)}"
    finally:
        os.close(directory)
