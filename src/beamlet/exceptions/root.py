"""The class every error of Beamlet's descends from, and the three plain shapes that most of them have."""

from __future__ import annotations

import pickle
from typing import Any, Self

import cloudpickle

from beamlet.exceptions import carried


class RayError(Exception):
    """The root of what Beamlet raises on its own account. Catch it to catch them all."""

    #: See base/own_code.py.
    _made_for_users = True

    def to_bytes(self) -> bytes:
        return bytes(cloudpickle.dumps(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Back from ``to_bytes``. For bytes of your own session only: they are unpickled."""
        error = pickle.loads(data)
        if not isinstance(error, cls):
            raise TypeError(f"these bytes hold a {type(error).__name__}, expected a {cls.__name__}")
        return error

    def __reduce__(self) -> Any:
        return carried.reduce(self)


class Worded(RayError):
    """An error with a text of its own for when it is raised without one."""

    _default = ""

    def __str__(self) -> str:
        return super().__str__() or self._default


class WithMessage(RayError):
    """An error that is its message."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class WithErrorMessage(RayError):
    """The same under the other name that Ray gives it."""

    def __init__(self, error_message: str) -> None:
        super().__init__(error_message)
        self.error_message = error_message
