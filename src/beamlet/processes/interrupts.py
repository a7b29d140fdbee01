"""Signal handlers run where they may raise and call the API: in user code and in waits, never in our books.

Python runs a signal's handler in the main thread between any two instructions.  One that raises there (a
timeout by ``signal.alarm``, KeyboardInterrupt, SystemExit), or calls the API, would find a lock taken, a
count half changed, a message half queued.  So every handler, whoever installs it and whenever, is wrapped
(``Guarded``), and where it may not run now it is *deferred*: run when the API call that it interrupted
returns, and failing that a millisecond later, by another signal of ours.
"""

from __future__ import annotations

import _thread
import contextlib
import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

from beamlet.base.deferring import FROM_HANDLER, Handler, deferred, deliver_by, lets_through, transparent
from beamlet.base.our_folder import OUR_FOLDER

_OURS = "beamlet."
#: Of our packages, those that wait in their own frames and hold nothing that could be left half done.
_LIKE_USERS = ("beamlet.api.head_start", "beamlet.cli.", "beamlet.util.")
#: Code of others that ours calls: whoever calls it decides.
_LIBRARIES = sys.stdlib_module_names | {"cloudpickle", "msgspec", "numpy"}
#: How long what is deferred waits for an API call to return.
_AGAIN_S = 0.001


class Lock(Protocol):
    """Guards the books: where the main thread holds it, no handler runs, even in user code (a __del__)."""

    @property
    def is_held_here(self) -> bool: ...

    def step_aside(self) -> bool | None:
        """A handler begins, perhaps in a wait: other threads' waits go on meanwhile."""
        ...

    def step_back(self, led: bool | None) -> None:
        """It is over; with what ``step_aside`` returned."""


# -- whether -------------------------------------------------------------------------------------


def may_run(frame: FrameType | None) -> bool:
    """Whether ``frame``, which a signal interrupted, belongs to user code or waits."""
    if _books is not None and _books.is_held_here:
        return False
    while frame is not None:
        module = frame.f_globals.get("__name__") or ""
        if module.startswith(_OURS) and not module.startswith(_LIKE_USERS):
            return frame.f_code in transparent
        if module.partition(".")[0] not in _LIBRARIES:
            return True
        frame = frame.f_back
    return True


def is_library(namespace: dict[str, Any]) -> bool:
    """Whether these are the globals of code that belongs to whoever calls it."""
    return (namespace.get("__name__") or "").partition(".")[0] in _LIBRARIES


def _innermost_user(frame: FrameType | None) -> FrameType | None:
    """Where user code stands on the stack that ends with ``frame``."""
    while frame is not None:
        module = frame.f_globals.get("__name__") or ""
        # By the file: ``python -m`` has the head, of which workers are forks, under the name of __main__.
        is_ours = frame.f_code.co_filename.startswith(OUR_FOLDER)
        if not is_ours and module.partition(".")[0] not in _LIBRARIES:
            return frame
        frame = frame.f_back
    return None


# -- running -------------------------------------------------------------------------------------


class Guarded:
    """What Python calls instead of a handler."""

    __slots__ = ("handler",)

    def __init__(self, handler: Handler) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if may_run(frame):
            _run(self.handler, number, frame)
        else:
            _defer(number, self.handler)


@lets_through
def _deliver_here() -> None:
    """At the end of an API call, or where a handler is replaced."""
    if threading.current_thread() is threading.main_thread():
        _deliver(sys._getframe())


deliver_by(_deliver_here)


def _deliver(frame: FrameType | None) -> None:
    while deferred and may_run(frame):
        number = next(iter(deferred))
        _run(deferred.pop(number), number, _innermost_user(frame) or frame)


def _run(handler: Handler, number: int, frame: FrameType | None) -> None:
    books = _books
    led = books.step_aside() if books is not None else None
    try:
        handler(number, frame)
        _wake_loop()
    except BaseException as error:
        if error.__traceback__ is not None:
            # This frame; past any __setattr__ of the class's own.
            BaseException.with_traceback(error, error.__traceback__.tb_next)
        error.__dict__[FROM_HANDLER] = True
        if _is_lost(handler, error, frame):
            print(f"the handler of signal {number} raised while nothing ran here:", file=sys.stderr)
            traceback.print_exception(error)
            return
        raise
    finally:
        if books is not None:
            books.step_back(led)


def _wake_loop() -> None:
    """What a handler asked of the event loop that it interrupted is done now, not when something else comes.

    A notebook's kernel cancels the cell that awaits a reference, and the loop slept on.
    """
    asyncio: Any = sys.modules.get("asyncio")
    running = getattr(asyncio, "_get_running_loop", None)  # none while it is being imported
    loop = running() if running is not None else None
    if loop is not None:
        loop.call_soon_threadsafe(_nothing)


def _nothing() -> None: ...


def _is_lost(handler: Handler, error: BaseException, frame: FrameType | None) -> bool:
    """Whether there is nobody to raise it in: a worker that waits for work goes on, unless told to exit."""
    return (
        _is_idle is not None
        and not isinstance(error, SystemExit)
        and not str(getattr(handler, "__module__", "")).startswith(_OURS)
        and _innermost_user(frame) is None
        and _is_idle()
    )


def _defer(number: int, handler: Handler) -> None:
    global _is_reminding
    deferred[number] = handler
    if not _is_reminding:
        _is_reminding = True
        try:
            _thread.start_new_thread(_remind, ())
        except RuntimeError:  # no more threads, says the system: then when the API call returns
            _is_reminding = False


def _remind() -> None:
    """A thread's life: interrupt the main thread until nothing is deferred.

    By a signal of our own, for a handler must run once for each signal that the user was sent.
    """
    global _is_reminding
    while True:
        time.sleep(_AGAIN_S)
        if deferred:
            _remind_once()
            continue
        _is_reminding = False
        if not deferred:
            return
        _is_reminding = True  # it came between these two lines


def _remind_once() -> None:
    main = threading.main_thread().ident
    if _reminder and main is not None:
        with contextlib.suppress(OSError):  # it has just ended
            signal.pthread_kill(main, _reminder)


def _reminded(_: int, frame: FrameType | None) -> None:
    _deliver(frame)


# -- installing ----------------------------------------------------------------------------------

#: What the module ``signal`` is written on. Not the public functions: who imported those already is met, too.
_c: Any = importlib.import_module("_signal")
_set_handler, _get_handler = _c.signal, _c.getsignal

_books: Lock | None = None
_is_idle: Callable[[], bool] | None = None
#: A thread lives that interrupts the main thread.
_is_reminding = False
#: The signal by which it does; 0: handlers are not wrapped yet.
_reminder = 0
_is_installed = False
#: What the main thread is to call; it must live until then.
_wrapping: Any = None


def install(books: Lock | None = None, is_idle: Callable[[], bool] | None = None) -> None:
    """From now on no handler runs while the main thread holds ``books`` or runs our code.

    is_idle: whether this is a worker whose main thread has nothing to do, so that what a handler raises can
    only be shown. Idempotent, in any thread; handlers that were installed before are met at once in the main
    thread, else before its next step.
    """
    global _books, _is_idle, _is_installed
    _books, _is_idle = books, is_idle
    if not _is_installed:
        _is_installed = True
        os.register_at_fork(after_in_child=_forget)
        _c.signal, _c.getsignal = _signal, _getsignal
    if not _reminder:
        if threading.current_thread() is threading.main_thread():
            _wrap_all()
        else:
            _wrap_soon()


def _wrap_soon() -> None:
    """Have the main thread do it, which alone may: the interpreter runs a call of ours there, as a handler.

    A server may use the API in a thread first, and Ctrl-C would then fall into the main thread's books.
    """
    global _wrapping
    import ctypes

    if _wrapping is None:
        _wrapping = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(_wrapped)
    ctypes.pythonapi.Py_AddPendingCall(_wrapping, None)


def _wrapped(_: object) -> int:
    if not _reminder and threading.current_thread() is threading.main_thread():
        _wrap_all()
    return 0


def _wrap_all() -> None:
    """In the main thread: what is there already, and a signal of our own."""
    global _reminder
    for number in range(1, signal.NSIG):
        handler = _get_handler(number)
        if callable(handler) and type(handler) is not Guarded:
            _set_handler(number, Guarded(handler))
    for number in range(signal.SIGRTMAX - 1, signal.SIGRTMIN, -1):
        if _get_handler(number) == signal.SIG_DFL:
            _set_handler(number, _reminded)
            _reminder = number
            return


@lets_through
def _signal(number: int, handler: Any) -> Any:
    """``signal.signal``, for those who use the API."""
    if deferred:
        _deliver_here()  # as Python does first: what came before is for the handler that was there
    if number == _reminder:
        return signal.SIG_DFL  # ours: whoever resets all signals there are must not make it deadly
    before = _set_handler(number, Guarded(handler) if callable(handler) else handler)
    if not _reminder:
        _wrap_all()
    return before.handler if type(before) is Guarded else before


def _getsignal(number: int) -> Any:
    """``signal.getsignal``: what was given to ``signal.signal``."""
    handler = _get_handler(number)
    if handler is _reminded:
        return signal.SIG_DFL
    return handler.handler if type(handler) is Guarded else handler


def _forget() -> None:
    """In a fork: what was deferred is our parent's, as is the thread that reminds."""
    global _is_reminding
    deferred.clear()
    _is_reminding = False
