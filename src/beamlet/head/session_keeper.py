"""Keeps the session's files where others look for them, for as long as the head lives.

Cleaners of temporary files remove what is old, and people remove what they do not know.  A head whose
directory is gone serves who has joined, but nobody finds it any more, not even to stop it.  So it looks every
``LOOK_S``, says what is missing, and makes it anew under the old name: directory, lock, secret, session.json,
socket, and what ``init("auto")`` and `beamlet stop` find it by.  Once an hour it makes all of it look new.
"""

from __future__ import annotations

from collections.abc import Callable

from beamlet.base.session_root_error import SessionRootError
from beamlet.processes.session import SessionDirectory, find_current, publish_current
from beamlet.rpc.listener import Listener
from beamlet.rpc.reactor import Reactor, Timer

LOOK_S = 2.0
_TOUCH_S = 3600.0


class SessionKeeper:
    """Owns the listener: it must be made anew with its socket."""

    def __init__(
        self,
        session: SessionDirectory,
        secret: bytes,
        reactor: Reactor,
        listen: Callable[[], Listener],
        warn: Callable[[str], None],
        *,
        is_current: bool,
    ) -> None:
        """``warn``: tells log and drivers. ``is_current``: it is the one that ``init("auto")`` is to find."""
        self._session = session
        self._secret = secret
        self._reactor = reactor
        self._listen = listen
        self._warn = warn
        self._is_current = is_current
        self._listener = listen()
        self._touched_at = reactor.now()
        #: What was said last: the same trouble is said once.
        self._said = ""
        self._timer: Timer = reactor.call_later(LOOK_S, self._look_again)

    def look(self) -> None:
        """Mend what is missing. Never raises: a head without files goes on without."""
        try:
            missing = self._missing()
        except OSError as error:
            self._say(
                f"files of the session {self._session.path} cannot be looked at: {error}. Programs that have "
                "joined go on; others perhaps do not find the cluster"
            )
            return
        if not missing:
            self._said = ""
            self._touch()
            return
        try:
            self._mend(missing)
        except (OSError, SessionRootError) as error:
            self._say(
                f"files of the session {self._session.path} are missing ({', '.join(missing)}), and cannot "
                f"be made again: {error}. Programs that have joined go on; others do not find the cluster"
            )
        else:
            self._say(
                f"files of the session {self._session.path} were removed ({', '.join(missing)}), by hand or "
                "by a cleaner of temporary files; they were made again, but for the logs"
            )

    def close(self) -> None:
        self._timer.cancel()
        self._listener.close()

    def _look_again(self) -> None:
        self._timer = self._reactor.call_later(LOOK_S, self._look_again)  # first, whatever the look brings
        self.look()

    def _missing(self) -> list[str]:
        missing = self._session.missing()
        if self._is_current and find_current(self._session.path.parent) is None:
            missing.append("current_cluster")
        return missing

    def _mend(self, missing: list[str]) -> None:
        self._session.mend(self._secret)
        if "socket" in missing:
            self._listener.close()
            self._listener = self._listen()
        if "current_cluster" in missing:
            publish_current(self._session)

    def _touch(self) -> None:
        now = self._reactor.now()
        if now - self._touched_at > _TOUCH_S:
            self._touched_at = now
            self._session.touch()

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._warn(text)
