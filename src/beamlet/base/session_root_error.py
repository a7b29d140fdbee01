"""● The error of a place for sessions that will not do. Alone here: who starts a head loads little else."""

from __future__ import annotations


class SessionRootError(RuntimeError):
    """The directory for sessions cannot be trusted or made; the message says how to choose another."""

    # Where users import it from, also before anybody has loaded that.
    __module__ = "beamlet.exceptions"
    #: See base/own_code.py.
    _made_for_users = True
