"""● What Python writes when a process crashes (faulthandler), without the frames that are not the user's.

It names every thread, and of each the whole stack down to the factory that forked it: 35 lines of ours around
the one that matters.  The log file keeps all of it.
"""

from __future__ import annotations

from beamlet.base.our_folder import OUR_FOLDER

_BEGIN = b"Fatal Python error:"
_OURS = (f'  File "{OUR_FOLDER}'.encode(), b'  File "<frozen runpy>"')
_THREAD = b"Thread 0x"
_CURRENT = b"Current thread 0x"


class CrashReport:
    """Of one process; ``lines`` is asked for everything that it writes to stderr."""

    def __init__(self) -> None:
        self._begun = False
        #: Of a thread other than the one that crashed, until a frame of it is worth showing.
        self._header = b""
        self._is_other_thread = False

    def lines(self, data: bytes) -> bytes:
        """What of these whole lines is to be shown."""
        if not self._begun and _BEGIN not in data:
            return data
        return b"".join(line for each in data.splitlines(keepends=True) for line in self._shown(each))

    def _shown(self, line: bytes) -> list[bytes]:
        if not self._begun:
            self._begun = line.startswith(_BEGIN)
            return [line]
        if line.startswith(_THREAD):
            self._header, self._is_other_thread = line, True
            return []
        if line.startswith(_CURRENT):
            self._header, self._is_other_thread = b"", False
        if line.startswith((*_OURS, b"Extension modules:")) or not line.strip():
            return []
        if self._is_other_thread and b'/threading.py", line ' in line:
            return []
        header, self._header = self._header, b""
        return [header, line] if header else [line]
