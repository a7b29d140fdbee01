"""Errors of the machinery: nodes, memory, disk, environments, secrets, channels."""

from __future__ import annotations

import os
from typing import Any

from beamlet.exceptions.root import RayError, WithMessage, Worded


class LocalRayletDiedError(Worded):
    """The node's own raylet is gone, and with it this node's workers and objects."""

    _default = (
        "The raylet of this node died; its workers and objects are gone. "
        "See logs/head.log in the session directory."
    )


class NodeDiedError(WithMessage):
    """The node that ran the task died, and no retries were left."""


class OutOfMemoryError(WithMessage):
    """The worker was killed to save the node from running out of memory."""


class ProcessMemoryError(WithMessage, MemoryError):
    """This process may not have the memory for a value: a limit of its own (ulimit) is reached."""


class OutOfDiskError(Worded):
    """Neither the object store nor the disk behind it has room."""

    _default = (
        "The object store is full and its disk has no room left to spill to: free disk space or drop refs."
    )


class ObjectStoreFullError(Worded):
    """The object store has no room and nothing in it may go."""

    _default = (
        "The object store is full, and every object in it is still referenced: drop refs, or give "
        "init() a larger object_store_memory."
    )


class RaySystemError(RayError):
    """Beamlet itself cannot go on: not initialised, a worker that cannot start, bytes that make no sense."""

    def __init__(self, client_exc: object, traceback_str: str | None = None) -> None:
        super().__init__(client_exc, traceback_str)
        self.client_exc = client_exc
        self.traceback_str = traceback_str

    def __str__(self) -> str:
        return f"System error: {self.client_exc}" + (f"\n{self.traceback_str}" if self.traceback_str else "")


class ClusterGoneError(RaySystemError):
    """The cluster has ended, or this program has left it: its objects are gone."""

    def __init__(self, reason: str, session_dir: str, has_left: bool = False) -> None:
        """has_left: of its own accord; the cluster may live on."""
        lost = "this program has left the cluster" if has_left else "lost the connection to the cluster"
        super().__init__(f"{lost}: {reason}")
        self._arguments = (reason, session_dir, has_left)

    def __str__(self) -> str:
        if self._arguments[2]:
            return (
                f"{super().__str__()}. Its session was shut down while this was under way, and what it owned "
                "went with it. Call init() to begin another."
            )
        log = f"{self._arguments[1]}/logs/head.log"
        # Asked when the text is wanted: a cluster that ends in order removes its logs a moment later.
        if os.path.exists(log):
            why = f"{log} may say why"
        else:
            why = "it ended in order, as with `beamlet stop`, and its logs were removed"
        return (
            f"{super().__str__()}. Its processes are ending and its objects are gone; {why}. "
            "Call shutdown() and init() to go on with a new one."
        )

    def __reduce__(self) -> tuple[type[ClusterGoneError], tuple[str, str, bool]]:
        return ClusterGoneError, self._arguments


class StreamingGeneratorReplayInconsistentError(RaySystemError):
    """A generator task, run again, yielded another number of items than the first time."""


class RayDirectTransportError(RaySystemError):
    """A tensor could not be sent from device to device."""


class RayChannelError(RaySystemError):
    """A compiled graph's channel is closed or broken."""


class RayChannelTimeoutError(RayChannelError, TimeoutError):
    """A compiled graph's channel stayed empty, or full, for too long."""


class RayCgraphCapacityExceeded(RaySystemError):
    """A compiled graph has too many results in flight or unread."""


class RuntimeEnvSetupError(RayError):
    """A runtime environment could not be made."""

    def __init__(self, error_message: str | None = None) -> None:
        super().__init__(error_message)
        self.error_message = error_message

    def __str__(self) -> str:
        detail = f": {self.error_message}" if self.error_message else "."
        return f"The runtime environment could not be set up{detail}"


class AuthenticationError(WithMessage):
    """The other side does not know the session's secret."""

    def __str__(self) -> str:
        return (
            f"{self.message}. The secret of a session is the file `secret` in its directory, readable by its "
            "user only: join it as the same user on the same machine."
        )


class RpcError(RayError):
    """A call to the control plane failed."""

    def __init__(self, message: str, rpc_code: int | None = None) -> None:
        super().__init__(message, rpc_code)
        self.message = message
        self.rpc_code = rpc_code

    def __str__(self) -> str:
        return self.message


class CrossLanguageError(RayError):
    """An error of a task written in another language."""

    def __init__(self, ray_exception: Any) -> None:
        super().__init__(ray_exception)
        self.ray_exception = ray_exception
