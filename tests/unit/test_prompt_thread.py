"""A thread may be started under a lock, though its first steps want that lock."""

from __future__ import annotations

import threading

import pytest

from beamlet.processes.prompt_thread import PromptThread, can_start, log_aside
from support.no_threads import refuse_threads
from support.waiting import wait_until

PATIENCE_S = 10.0


def test_it_is_started_under_a_lock_that_its_first_steps_want() -> None:
    """What the garbage collector runs there may call the API."""
    lock, ran = threading.Lock(), threading.Event()

    class Slow(PromptThread):
        def _set_ident(self) -> None:  # before it tells that it runs
            with lock:
                super()._set_ident()  # type: ignore[misc]

    thread = Slow(target=ran.set, name="prompt", daemon=True)
    starter = threading.Thread(target=lambda: start_under(lock, thread), daemon=True)
    starter.start()
    starter.join(PATIENCE_S)
    assert not starter.is_alive(), "each waited for the other"
    assert ran.wait(PATIENCE_S)
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def start_under(lock: threading.Lock, thread: threading.Thread) -> None:
    with lock:
        thread.start()


def test_a_handler_of_logging_is_not_waited_for_under_a_lock_that_it_wants() -> None:
    lock, logged = threading.Lock(), list[str]()

    def log(text: str, *arguments: object) -> None:
        with lock:
            logged.append(text % arguments)

    with lock:
        log_aside(log, "%s is lost", "it")
    wait_until(lambda: logged, PATIENCE_S, "the log")
    assert logged == ["it is lost"]


def test_without_a_thread_it_is_said_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse_threads(monkeypatch)
    assert not can_start(PromptThread(target=print))
    log_aside(print, "%s of %d", "two", 3)
    assert "two of 3" in capsys.readouterr().err
