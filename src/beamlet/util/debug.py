"""Saying things once: ``log_once`` and what turns it off and on."""

from __future__ import annotations

import time

from beamlet.api.argument_table import checked
from beamlet.base.own_code import for_users

_PERIOD_S = 60.0

_said: set[str] = set()
_disabled = False
_periodic = False
_last_said: float = 0.0


@for_users
def log_once(key: str) -> bool:
    """True the first time it is asked for ``key`` in this process, then False: ``if log_once("x"): …``.

    After ``enable_periodic_logging()`` the keys are forgotten once a minute.

    >>> log_once("the docs"), log_once("the docs")
    (True, False)
    """
    global _last_said
    checked("util.log_once", "key", key)
    if _disabled:
        return False
    if key not in _said:
        _said.add(key)
        _last_said = time.monotonic()
        return True
    if _periodic and time.monotonic() - _last_said > _PERIOD_S:
        _said.clear()
        _said.add(key)
        _last_said = time.monotonic()
        return True
    return False


def disable_log_once_globally() -> None:
    """From now on ``log_once`` is always False."""
    global _disabled
    _disabled = True


def enable_periodic_logging() -> None:
    """From now on ``log_once`` forgets once a minute."""
    global _periodic
    _periodic = True


def reset_log_once(key: str | None = None) -> None:
    """Forget ``key``, or all keys."""
    if key is None:
        _said.clear()
    else:
        _said.discard(key)
