"""Asking a running cluster as an observer: no job is made, nothing runs, and any version may ask."""

from __future__ import annotations

import os
import sys
from time import monotonic
from typing import Any

from beamlet.api.driver_place import entrypoint
from beamlet.api.head_start import find_session, join
from beamlet.base.version import VERSION
from beamlet.processes.session import SessionDirectory, find_current, find_running, session_root
from beamlet.protocol import gcs, node
from beamlet.protocol.message import Message
from beamlet.rpc.connection import Connection
from beamlet.rpc.reactor import Reactor

ANSWER_S = 10.0


def choose_session(address: str | None) -> SessionDirectory:
    """The session meant by ``address``; without one the current, else the newest that runs.

    Raises ConnectionError if there is none.
    """
    if address is not None and address != "auto":
        return find_session(address)
    root = session_root()
    session = find_current(root) or next(iter(find_running(root)), None)
    if session is None:
        raise ConnectionError(
            f"no Beamlet session of this user is running (looked in {root}). Start one with "
            "`beamlet start --head`, or run a program that calls beamlet.init()."
        )
    return session


def ask(session: SessionDirectory, question: Message) -> Any:
    """One question, one answer. Raises ConnectionError if the session refuses, ends or stays silent."""
    observer = _Observer(session)
    try:
        return observer.ask(question)
    finally:
        observer.close()


class _Observer:
    def __init__(self, session: SessionDirectory) -> None:
        self._session = session
        self._reactor = Reactor()
        self._answers: list[Any] = []
        self._lost = ""
        self._connection = Connection(
            join(session),
            self._reactor,
            messages=node.Welcome | node.Refused | gcs.ClusterState | gcs.Timeline,
            on_close=self._closed,
            on_message=self._received,
            label="raylet",
            carries_fds=True,
        )

    def ask(self, question: Message) -> Any:
        self._connection.send(_hello())
        welcome = self._next()
        if isinstance(welcome, node.Refused):
            raise ConnectionError(
                f"session {self._session.path.name} refused the connection: {welcome.reason}"
            )
        self._connection.send(question)
        return self._next()

    def _next(self) -> Any:
        deadline = monotonic() + ANSWER_S
        self._reactor.flush()
        while not self._answers:
            if self._lost or monotonic() > deadline:
                why = self._lost or f"no answer within {ANSWER_S:g} s"
                raise ConnectionError(
                    f"session {self._session.path.name} does not answer ({why}). Its head's log is "
                    f"{self._session.logs / 'head.log'}; `beamlet stop --force` ends it."
                )
            self._reactor.run_once(0.1)
        return self._answers.pop(0)

    def _received(self, connection: Connection, message: Any) -> None:
        if isinstance(message, node.Welcome):
            os.close(connection.take_fd())  # the arena: of no use to us
        self._answers.append(message)

    def _closed(self, _: Connection, reason: str) -> None:
        self._lost = reason or "it closed the connection"

    def close(self) -> None:
        if not self._connection.closed:
            self._connection.send(node.Goodbye())
            self._connection.flush()
            self._connection.close()
        self._reactor.close()


def _hello() -> node.DriverHello:
    return node.DriverHello(
        pid=os.getpid(),
        python=".".join(map(str, sys.version_info[:2])),
        version=VERSION,
        namespace="",
        entrypoint=entrypoint(),
        sys_path=[],
        cwd=b"",
        script_dir=b"",
        env_vars={},
        strict_arrays=False,
        log_to_driver=False,
        owns_cluster=False,
        observer=True,
    )
