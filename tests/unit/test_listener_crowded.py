"""The door of a node, crowded: the silent make room for those who mean it; the shown-out come again."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from beamlet.rpc.listener import MAX_STRANGERS, Listener, connect
from beamlet.rpc.reactor import Reactor
from beamlet.rpc.socket_path import short_socket_path

SECRET = b"s" * 32
PASSES_MAX = 5000


class Door:
    def __init__(self, path: str) -> None:
        self.path = path
        self.reactor = Reactor(spin_s=0.0)
        self.welcomed: list[socket.socket] = []
        self.listener = Listener(path, SECRET, self.reactor, self.welcomed.append)

    def run_until(self, done: Callable[[], object]) -> None:
        for _ in range(PASSES_MAX):
            if done():
                return
            self.reactor.run_once(0.01)
        raise AssertionError(f"not done after {PASSES_MAX} passes")

    def knock(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        with short_socket_path(self.path) as short:
            sock.connect(short)
        self.reactor.run_once(0.01)
        return sock


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(str(tmp_path / "node.sock"))
    yield door
    for sock in door.welcomed:
        sock.close()
    door.listener.close()
    door.reactor.close()


def visit(door: Door) -> tuple[threading.Thread, list[socket.socket]]:
    inside: list[socket.socket] = []
    visitor = threading.Thread(target=lambda: inside.append(connect(door.path, SECRET)))
    visitor.start()
    return visitor, inside


def test_silent_strangers_keep_nobody_out(door: Door) -> None:
    silent = [door.knock() for _ in range(MAX_STRANGERS)]
    visitor, inside = visit(door)
    door.run_until(lambda: door.welcomed and inside)
    visitor.join()
    assert door.listener.refused_count == 1
    assert silent[0].recv(1) == b"", "the one that was silent longest made room"
    for sock in (*silent, *inside):
        sock.close()


def test_the_door_stays_open_when_the_kernel_watches_no_more_descriptors(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, refused = door.reactor.add_reader, [OSError(28, "No space left on device")]

    def watch_later(*how: Any) -> None:
        if refused:
            raise refused.pop()
        watch(*how)

    monkeypatch.setattr(door.reactor, "add_reader", watch_later)
    turned_away = door.knock()
    assert turned_away.recv(1) == b""
    visitor, inside = visit(door)
    door.run_until(lambda: door.welcomed and inside)
    visitor.join()
    for sock in (turned_away, *inside):
        sock.close()


def test_a_door_that_was_closed_for_a_moment_opens_although_it_is_not_watched_at_once(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.reactor.remove_reader(door.listener._sock.fileno())  # as when there were no descriptors
    watch, refused = door.reactor.add_reader, [OSError(28, "No space left on device")]

    def watch_later(*how: Any) -> None:
        if refused:
            raise refused.pop()
        watch(*how)

    monkeypatch.setattr(door.reactor, "add_reader", watch_later)
    door.listener._resume()
    visitor, inside = visit(door)
    door.run_until(lambda: door.welcomed and inside)
    visitor.join()
    inside[0].close()


def test_who_is_shown_out_while_proving_itself_comes_again(door: Door) -> None:
    visitor, inside = visit(door)
    door.run_until(lambda: door.listener._strangers)
    stranger = next(iter(door.listener._strangers.values()))
    door.listener.settle(stranger, "made room for another")
    door.run_until(lambda: door.welcomed and inside)
    visitor.join()
    for sock in inside:
        sock.close()


def test_a_flood_of_strangers_is_never_more_than_there_is_room_for(door: Door) -> None:
    silent = [door.knock() for _ in range(3 * MAX_STRANGERS)]
    door.run_until(lambda: door.listener.refused_count == 2 * MAX_STRANGERS)
    assert len(door.listener._strangers) == MAX_STRANGERS
    for sock in silent:
        sock.close()
