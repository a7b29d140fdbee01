"""What a process says that lost its cluster: it points to a log only while there is one."""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from beamlet.api.driver import Driver, _keep_arrays
from beamlet.api.init_options import checked
from beamlet.core_worker.core_worker import CoreWorker
from beamlet.core_worker.owning.coroutine_wait import CoroutineWait
from beamlet.exceptions import ClusterGoneError
from beamlet.processes.session import SessionDirectory
from support.waiting import wait_until


def test_it_points_to_the_log_that_is_there(tmp_path: Path) -> None:
    error = ClusterGoneError("closed by the other side", str(tmp_path))
    assert "it ended in order, as with `beamlet stop`, and its logs were removed" in str(error)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "head.log").touch()
    assert f"{tmp_path}/logs/head.log may say why" in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    left = ClusterGoneError("shutdown() was called", str(tmp_path), True)
    assert "head.log" not in str(left)
    assert str(pickle.loads(pickle.dumps(left))) == str(left)


class WantsLock(logging.Handler):
    """Sends records to an actor, as it were."""

    def __init__(self, lock: threading.Lock) -> None:
        super().__init__()
        self.wanted = lock
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        assert self.wanted.acquire(timeout=10.0), "it is held by who waits for us"
        self.wanted.release()
        self.texts.append(record.getMessage())


@pytest.fixture
def handler() -> Iterator[WantsLock]:
    handler = WantsLock(threading.Lock())
    logging.getLogger("beamlet").addHandler(handler)
    yield handler
    logging.getLogger("beamlet").removeHandler(handler)


def test_the_loss_is_logged_without_the_lock(
    tmp_path: Path, handler: WantsLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(SessionDirectory(tmp_path), None, checked(None, {}, {}))
    driver.core = SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setattr(driver, "_after_loss", lambda: None)
    with handler.wanted:
        driver._lost("it was killed")
    wait_until(lambda: handler.texts, 10.0, "the log")
    assert "it was killed" in handler.texts[0]
    driver._shower.end(10.0)


def test_a_loop_that_takes_no_result_is_logged_without_the_lock(handler: WantsLock) -> None:
    class Loop(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, *_: Any, **__: Any) -> Any:
            raise ValueError("not now")

    async def wait() -> None:
        wait = CoroutineWait()
        with handler.wanted:
            wait.on_ready(None)

    loop = Loop()
    try:
        loop.run_until_complete(wait())
    finally:
        loop.close()
    wait_until(lambda: handler.texts, 10.0, "the log")
    assert "not now" in handler.texts[0]


def test_threads_that_wait_learn_of_shutdown_whatever_breaks_from_then_on(tmp_path: Path) -> None:
    """Actors are ended first, which takes a moment, and may be when the head dies."""
    said: list[str] = []

    class Core:
        lock = threading.RLock()
        link = SimpleNamespace(leave=lambda reason: said.append(f"leave: {reason}"))
        store = SimpleNamespace(end_writing=lambda within_s: None, keep_all=lambda: None, leave=lambda: None)
        forked_views = SimpleNamespace(close=lambda: None)
        releases = SimpleNamespace(keep_pins=lambda: None)
        shut = lambda self: None  # noqa: E731

        def end_actors_in_order(self) -> None:
            said.append("end actors")

        def say_goodbye(self) -> None:
            said.append("goodbye")

    driver = Driver(SessionDirectory(tmp_path), None, checked(None, {}, {}))
    core: Any = Core()
    driver.core = core
    driver._left.set()
    driver.leave()
    assert said == ["leave: shutdown() was called in this process", "end actors", "goodbye"]


def test_who_lost_the_raylet_writes_no_more_before_anybody_is_told() -> None:
    """Nobody will read it."""
    done: list[object] = []
    core: Any = SimpleNamespace(
        _shut=False,
        store=SimpleNamespace(end_writing=done.append),
        _on_raylet_lost=done.append,
        _refuse=None,
        _lose_promised=lambda: None,
    )
    CoreWorker._raylet_lost(core, "cut off")
    assert done == [0, "cut off"]


def test_who_leaves_gives_no_pins_back_that_forks_may_need() -> None:
    done: list[str] = []
    core: Any = SimpleNamespace(
        lock=threading.Lock(),
        store=SimpleNamespace(keep_all=lambda: done.append("copy what lives")),
        forked_views=SimpleNamespace(close=lambda: done.append("let go of what forks have")),
        releases=SimpleNamespace(keep_pins=lambda: done.append("keep pins")),
    )
    _keep_arrays(core)
    assert done == ["keep pins", "let go of what forks have", "copy what lives"]


def test_who_cannot_copy_its_arrays_is_told_what_that_costs() -> None:
    def fail() -> None:
        raise OSError("no memory")

    nothing = lambda: None  # noqa: E731
    core: Any = SimpleNamespace(
        lock=threading.Lock(),
        store=SimpleNamespace(keep_all=fail),
        forked_views=SimpleNamespace(close=nothing),
        releases=SimpleNamespace(keep_pins=nothing),
    )
    with pytest.warns(RuntimeWarning, match=r"\(no memory\): the rest keep their room in the object store"):
        _keep_arrays(core)
