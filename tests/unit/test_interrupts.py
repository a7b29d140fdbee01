"""No signal's handler runs in the middle of our work, and none is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from beamlet.base.own_code import for_users
from beamlet.core_worker.executing.interruptible import interruptible, interruptible_items
from beamlet.processes import interrupts
from beamlet.rpc.turns import SharedReactor, Waiter
from beamlet.serialization.closures import check_closure
from beamlet.serialization.unpicklable import explain_unpicklable
from beamlet.serialization.values import dumps

PATIENCE_S = 10.0
NUMBER = signal.SIGUSR1


class Mine(Exception):
    """What the handlers of these tests raise."""


class Books:
    is_held_here = False

    def step_aside(self) -> bool | None:
        return None

    def step_back(self, led: bool | None) -> None: ...


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> Iterator[Books]:
    """Installed, as in a driver; afterwards everything is as it was."""
    c = interrupts._c
    before = {number: interrupts._get_handler(number) for number in range(1, signal.NSIG)}
    for name in ("_books", "_is_idle", "_reminder", "_is_installed"):
        monkeypatch.setattr(interrupts, name, getattr(interrupts, name))
    monkeypatch.setattr(c, "signal", c.signal)
    monkeypatch.setattr(c, "getsignal", c.getsignal)
    monkeypatch.setattr(os, "register_at_fork", lambda **_: None)
    interrupts._is_installed, interrupts._reminder = False, 0
    books = Books()
    interrupts.install(books)
    yield books
    interrupts.deferred.clear()
    until(lambda: not interrupts._is_reminding, "the reminder's end")
    for number, handler in before.items():
        if handler is not None and interrupts._get_handler(number) is not handler:
            interrupts._set_handler(number, handler)


@pytest.fixture
def no_reminder(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is deferred comes with the end of an API call, or not at all."""
    monkeypatch.setattr(interrupts, "_remind_once", lambda: None)


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.0005)


@contextlib.contextmanager
def signalled(when: Callable[[], Any]) -> Iterator[None]:
    """Sends the caller a signal once ``when()``: an alarm could strike before it waits, on a busy machine."""
    main = threading.get_ident()

    def send() -> None:
        until(when, "the moment for the signal")
        time.sleep(0.01)  # as a rule it sleeps by now
        signal.pthread_kill(main, NUMBER)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        sender.join()


def raises(number: int, frame: FrameType | None) -> None:
    raise Mine


def ours(source: str, **names: Any) -> Callable[..., Any]:
    """A function ``f`` as if it stood in a module of Beamlet's."""
    scope = {"__name__": "beamlet.pretended", "signal": signal, "NUMBER": NUMBER, **names}
    exec(source, scope)
    return scope["f"]  # type: ignore[no-any-return]


def test_in_user_code_a_handler_runs_at_once(books: Books) -> None:
    signal.signal(NUMBER, raises)
    with pytest.raises(Mine):
        signal.raise_signal(NUMBER)
    assert not interrupts.deferred


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


def test_what_a_handler_raises_may_forbid_to_be_changed(books: Books) -> None:
    def refuses(number: int, frame: FrameType | None) -> None:
        raise Frozen(7)

    signal.signal(NUMBER, refuses)
    with pytest.raises(Frozen):
        signal.raise_signal(NUMBER)


@pytest.mark.usefixtures("no_reminder")
def test_in_our_code_it_waits_for_the_end_of_the_api_call(books: Books) -> None:
    steps: list[str] = []
    f = ours("def f():\n signal.raise_signal(NUMBER)\n steps.append('whole')\n return 1", steps=steps)
    signal.signal(NUMBER, raises)
    with pytest.raises(Mine) as raised:
        for_users(f)()
    assert steps == ["whole"]
    assert not interrupts.deferred
    names = [entry.name for entry in raised.traceback]
    assert names == [test_in_our_code_it_waits_for_the_end_of_the_api_call.__name__, "raises"]


@pytest.mark.usefixtures("no_reminder")
def test_the_standard_library_belongs_to_whoever_calls_it(books: Books) -> None:
    steps: list[str] = []
    source = (
        "import contextlib\n"
        "@contextlib.contextmanager\n"
        "def manager():\n"
        "    signal.raise_signal(NUMBER)\n"
        "    yield\n"
        "def f():\n"
        "    with manager():\n"
        "        steps.append('whole')\n"
    )
    signal.signal(NUMBER, raises)
    ours(source, steps=steps)()
    assert steps == ["whole"]
    assert NUMBER in interrupts.deferred


@pytest.mark.usefixtures("no_reminder")
@pytest.mark.parametrize("kind", ["function in C", "of a library", "bound method"])
def test_what_a_user_has_run_may_be_interrupted_also_without_a_frame_of_users(
    books: Books, kind: str
) -> None:
    """``ray.remote(time.sleep)`` could not be cancelled: all on the stack was ours, or a library's."""
    steps: list[str] = []
    function = signal.raise_signal
    if kind != "function in C":
        source = "def g(self, number=None):\n signal.raise_signal(number or self)"
        scope: dict[str, Any] = {"__name__": "queue.pretended", "signal": signal}
        exec(source, scope)
        function = scope["g"]
    if kind == "bound method":
        function = types.MethodType(function, "an instance")
    run = ours("def f(call):\n call(NUMBER)\n steps.append('whole')", steps=steps)
    signal.signal(NUMBER, raises)
    run(function)
    assert steps == ["whole"], "called by us, it belongs to us"
    interrupts.deferred.clear()
    with pytest.raises(Mine):
        run(interruptible(function))
    assert steps == ["whole"]


@pytest.mark.usefixtures("no_reminder")
def test_items_that_a_library_makes_for_a_user_may_be_interrupted(books: Books) -> None:
    run = ours("def f(values):\n for item in values: pass")
    signal.signal(NUMBER, raises)
    run(map(signal.raise_signal, [NUMBER]))
    interrupts.deferred.clear()
    with pytest.raises(Mine):
        run(interruptible_items(map(signal.raise_signal, [NUMBER])))


def test_what_users_wrote_is_called_as_it_is() -> None:
    """It costs nothing then, and is what it is to whoever looks."""

    class Mine:
        def method(self) -> Iterator[int]:
            yield 1

    method = Mine().method
    assert interruptible(method) is method
    assert interruptible(raises) is raises
    items = method()
    assert interruptible_items(items) is items
    assert list(interruptible_items([1, 2])) == [1, 2]


@pytest.mark.usefixtures("no_reminder")
def test_in_user_code_that_runs_under_our_lock_it_waits(books: Books) -> None:
    """A ``__del__``, for which Python would swallow what is raised, and where books are half written."""
    signal.signal(NUMBER, raises)
    books.is_held_here = True
    signal.raise_signal(NUMBER)
    assert NUMBER in interrupts.deferred
    for_users(lambda: None)()
    assert NUMBER in interrupts.deferred, "an API call of that __del__ does not run it either"
    books.is_held_here = False
    with pytest.raises(Mine):
        for_users(lambda: None)()


def test_what_no_api_call_delivers_comes_a_moment_later(books: Books) -> None:
    f = ours("def f():\n signal.raise_signal(NUMBER)")
    signal.signal(NUMBER, raises)
    with pytest.raises(Mine):
        f()
        until(lambda: False, "the handler")
    assert not interrupts.deferred


@pytest.mark.usefixtures("no_reminder")
def test_a_handler_runs_once_for_signals_that_came_together(books: Books) -> None:
    calls: list[int] = []
    f = ours("def f():\n for _ in range(3): signal.raise_signal(NUMBER)")
    signal.signal(NUMBER, lambda number, _: calls.append(number))
    for_users(f)()
    assert calls == [NUMBER]


@pytest.mark.usefixtures("no_reminder")
def test_when_one_raises_the_others_are_not_forgotten(books: Books) -> None:
    calls: list[int] = []
    f = ours("def f():\n signal.raise_signal(NUMBER)\n signal.raise_signal(signal.SIGUSR2)")
    signal.signal(NUMBER, raises)
    signal.signal(signal.SIGUSR2, lambda number, _: calls.append(number))
    with pytest.raises(Mine):
        for_users(f)()
    assert not calls
    for_users(lambda: None)()
    assert calls == [signal.SIGUSR2]


@pytest.mark.usefixtures("no_reminder")
def test_it_is_told_the_line_of_user_code(books: Books) -> None:
    told: list[str] = []
    signal.signal(NUMBER, lambda _, frame: told.append(frame.f_code.co_name if frame else "none"))
    for_users(ours("def f():\n signal.raise_signal(NUMBER)"))()
    assert told == [test_it_is_told_the_line_of_user_code.__name__]


@pytest.mark.usefixtures("no_reminder")
def test_a_handler_that_is_replaced_is_run_first(books: Books) -> None:
    """As in plain Python; else a timeout could strike after its ``finally``."""
    ours("def f():\n signal.raise_signal(NUMBER)")  # compiled
    signal.signal(NUMBER, raises)
    ours("def f():\n signal.raise_signal(NUMBER)")()
    with pytest.raises(Mine):
        signal.signal(NUMBER, signal.SIG_DFL)
    assert signal.getsignal(NUMBER) is raises


def test_a_wait_is_ended_at_once(books: Books) -> None:
    reactor = SharedReactor()  # not started: the main thread leads
    signal.signal(NUMBER, raises)
    started = time.monotonic()
    with signalled(lambda: reactor._user_leads), pytest.raises(Mine):
        reactor.wait(Waiter(), started + PATIENCE_S)
    assert time.monotonic() - started < PATIENCE_S / 2
    assert not reactor.lock.is_held_here
    assert not reactor._turn._is_owned()  # type: ignore[attr-defined]
    reactor.close()


def test_a_follower_is_woken_too(books: Books) -> None:
    reactor = SharedReactor()  # not started: it must not lead before the thread below does
    holds, go = threading.Event(), threading.Event()

    def lead() -> None:
        with reactor._turn:
            holds.set()
            go.wait(PATIENCE_S)

    leader = threading.Thread(target=lead)
    leader.start()
    assert holds.wait(PATIENCE_S)
    signal.signal(NUMBER, raises)
    with signalled(lambda: reactor._followers), pytest.raises(Mine):
        reactor.wait(Waiter(), time.monotonic() + PATIENCE_S)
    assert not reactor._followers
    go.set()
    leader.join()
    reactor.shut()
    reactor.close()


# -- what users see of it ------------------------------------------------------------------------


def test_users_see_the_handlers_that_they_installed(books: Books) -> None:
    assert signal.signal(NUMBER, raises) == signal.SIG_DFL
    assert signal.getsignal(NUMBER) is raises
    assert signal.signal(NUMBER, signal.SIG_IGN) is raises
    assert signal.signal(NUMBER, signal.SIG_DFL) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is not None
    with pytest.raises(TypeError):
        signal.signal(NUMBER, "no handler")  # type: ignore[arg-type]


def test_pythons_own_handler_is_met_wherever_it_is_installed_again(books: Books) -> None:
    """A notebook's kernel does so before each cell; asyncio.run() looks whether it is there."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert type(interrupts._get_handler(signal.SIGINT)) is interrupts.Guarded


def test_handlers_that_were_there_before_are_met(books: Books) -> None:
    assert type(interrupts._get_handler(signal.SIGINT)) is interrupts.Guarded
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_another_thread_they_are_met_before_the_main_threads_next_step(books: Books) -> None:
    """Only later ones were: Ctrl-C fell into our books where a thread had called init()."""
    interrupts._set_handler(NUMBER, raises)
    interrupts._reminder = 0
    thread = threading.Thread(target=interrupts.install, args=(books,))
    thread.start()
    thread.join()
    until(lambda: interrupts._reminder, "the main thread's turn")
    assert type(interrupts._get_handler(NUMBER)) is interrupts.Guarded
    assert signal.getsignal(NUMBER) is raises


def test_if_the_main_thread_cannot_be_told_the_next_handler_brings_it_about(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More calls are pending in the interpreter than it takes."""
    monkeypatch.setattr(interrupts, "_wrap_soon", lambda: None)
    interrupts._set_handler(NUMBER, raises)
    interrupts._reminder = 0
    thread = threading.Thread(target=interrupts.install, args=(books,))
    thread.start()
    thread.join()
    assert interrupts._get_handler(NUMBER) is raises
    signal.signal(signal.SIGUSR2, raises)
    assert type(interrupts._get_handler(NUMBER)) is interrupts.Guarded


def test_whoever_resets_all_signals_does_not_make_ours_deadly(books: Books) -> None:
    ours_is = interrupts._reminder
    assert ours_is
    assert signal.getsignal(ours_is) == signal.SIG_DFL
    assert signal.signal(ours_is, signal.SIG_DFL) == signal.SIG_DFL
    assert interrupts._get_handler(ours_is) is interrupts._reminded


def test_a_loop_does_at_once_what_a_handler_asks_of_it(books: Books) -> None:
    """As a notebook's kernel does, to interrupt a cell that awaits something."""
    started = time.monotonic()

    async def sleep() -> None:
        task = asyncio.current_task()
        assert task is not None
        signal.signal(NUMBER, lambda *_: task.cancel())
        main = threading.get_ident()
        asyncio.get_running_loop().call_later(0.1, lambda: None)  # the last that wakes it by itself
        threading.Timer(0.3, signal.pthread_kill, (main, NUMBER)).start()
        await asyncio.sleep(3 * PATIENCE_S)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(sleep())
    assert time.monotonic() - started < PATIENCE_S


def test_a_handler_may_run_while_asyncio_is_being_imported(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes some 30 ms, and a signal that comes then must not end the import."""
    seen: list[int] = []
    signal.signal(NUMBER, lambda number, _: seen.append(number))
    monkeypatch.setitem(sys.modules, "asyncio", types.ModuleType("asyncio"))
    signal.raise_signal(NUMBER)
    assert seen == [NUMBER]


def test_asyncio_is_told_of_each_signal_once(books: Books) -> None:
    calls: list[int] = []

    async def main() -> None:
        told = asyncio.Event()

        def tell() -> None:
            calls.append(NUMBER)
            told.set()

        asyncio.get_running_loop().add_signal_handler(NUMBER, tell)
        ours("def f():\n signal.raise_signal(NUMBER)")()
        await told.wait()
        await asyncio.sleep(0.02)  # a second call would come with the reminder, a millisecond later
        asyncio.get_running_loop().remove_signal_handler(NUMBER)

    asyncio.run(main())
    assert calls == [NUMBER]


def test_a_fork_forgets_what_its_parent_was_sent(books: Books) -> None:
    interrupts._defer(NUMBER, raises)
    interrupts._forget()
    assert not interrupts.deferred


# -- in workers ----------------------------------------------------------------------------------

IDLE = "def f(reactor, waiter, deadline):\n return reactor.wait(waiter, deadline)"


def idle_wait(reactor: SharedReactor, handler: Callable[[], object]) -> None:
    """What a worker's main thread does between tasks: no user code is on its stack."""
    waiter = Waiter()

    def handle(number: int, frame: FrameType | None) -> None:
        waiter.remaining = 0
        reactor.wake()
        handler()

    signal.signal(NUMBER, handle)
    with signalled(lambda: reactor._user_leads):
        assert ours(IDLE)(reactor, waiter, time.monotonic() + PATIENCE_S), "it was not signalled"


def fails() -> None:
    raise Mine


@pytest.mark.parametrize("is_idle", [True, False])
def test_with_nobody_to_raise_it_in_an_error_is_shown(
    books: Books, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_idle: bool
) -> None:
    monkeypatch.setattr(interrupts, "_innermost_user", lambda _: None)  # pytest's frames are users'
    interrupts.install(books, lambda: is_idle)
    reactor = SharedReactor()
    if is_idle:
        idle_wait(reactor, fails)
        said = capsys.readouterr().err
        assert "raised while nothing ran here" in said
        assert "Mine" in said
    else:
        with pytest.raises(Mine):
            idle_wait(reactor, fails)
    reactor.close()


def test_exit_ends_a_worker_that_is_idle(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_innermost_user", lambda _: None)
    interrupts.install(books, lambda: True)
    reactor = SharedReactor()
    with pytest.raises(SystemExit):
        idle_wait(reactor, lambda: sys.exit(3))
    reactor.close()


# -- what it looks like --------------------------------------------------------------------------


class Interrupted:
    """Something whose pickling a signal interrupts."""

    def __reduce__(self) -> tuple[Any, ...]:
        signal.raise_signal(NUMBER)
        return Interrupted, ()


def fails_to_pickle(number: int, frame: FrameType | None) -> None:
    raise TypeError("this is no fault of the value")


def test_what_a_handler_raises_is_not_taken_for_an_error_of_ours(books: Books) -> None:
    signal.signal(NUMBER, fails_to_pickle)
    value = Interrupted()
    with pytest.raises(TypeError, match="no fault"):
        check_closure(lambda: value, "function", 1 << 20, 1 << 20)
    with pytest.raises(TypeError, match="no fault") as raised:
        dumps(value)
    explain_unpicklable(raised.value, (value,), {}, "function")
