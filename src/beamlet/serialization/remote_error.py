"""In the worker: turn what the user's code raised into a ``RayTaskError`` that reads well elsewhere.

The text is written here, where the stack and the source are, with our own frames left out: what a user
reads starts at the user's function.  Which errors reach this point, and what becomes of them, the executor
decides.  A task whose *argument* failed never ran: its error is the argument's, passed on as it is.
"""

from __future__ import annotations

import io
import pickle
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from beamlet.base.our_folder import OUR_FOLDER
from beamlet.base.own_code import made_for_users
from beamlet.exceptions import ActorDiedError, RayError, RayTaskError, carried, task_error
from beamlet.serialization.decorated import Pickler
from beamlet.serialization.refs import contained_sink, trial
from beamlet.serialization.unpicklable import a_kind, find_culprit
from beamlet.serialization.unpickling import loads_counted
from beamlet.serialization.values import ERROR, Serialized, dump_error, pack, rebuild, unpack

#: An error payload that goes by way of the head, which keeps it and gives it to all who know the actor.
HEAD_ERROR_BYTES = 4 << 20
#: Of a longer text, the beginning and the end: it is a copy, as text, of what the error carries anyway.
_TEXT_CHARACTERS = 1 << 20
_PATHS_SHOWN = 8
_HEADER = "Traceback (most recent call last):\n"


def capture(
    error: BaseException,
    *,
    function_name: str,
    pid: int,
    ip: str,
    actor_repr: str | None = None,
    actor_id: str | None = None,
) -> RayTaskError:
    """The error to store as the task's result; pickle it with any pickler.

    function_name: as users know it, ``f`` or ``Counter.increment``. actor_id: hex.
    An error that came out of a nested ``get`` keeps its original cause, and both tracebacks.
    """
    cause = error.cause if isinstance(error, RayTaskError) else error
    where = f"pid={pid}, ip={ip}"
    if actor_id is not None:
        where += f", actor_id={actor_id}"
    if actor_repr is not None:
        where += f", repr={actor_repr}"
    report = format_without_our_frames(error)
    text = _cut(f"{function_name}() ({where})\n{report}{_searched(error)}")
    made = RayTaskError(function_name, text, cause, pid=pid, ip=ip, actor_repr=actor_repr, actor_id=actor_id)
    for note in _notes(error):
        made.add_note(_cut(note))
    return made


def _cut(text: str) -> str:
    left_out = len(text) - _TEXT_CHARACTERS
    if left_out <= 0:
        return text
    half = _TEXT_CHARACTERS // 2
    return f"{text[:half]}\n… {left_out:,} characters are left out here …\n{text[-half:]}"


def _notes(error: BaseException) -> list[str]:
    found = vars(error).get("__notes__")  # no getattr(): a __getattr__ of the class's own may raise anything
    return [note for note in found if isinstance(note, str)] if isinstance(found, list | tuple) else []


def _searched(error: BaseException) -> str:
    """Where a worker looked for a module that it did not find, and what helps."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    top = error.name.partition(".")[0]
    if top in sys.modules and error.name != top:
        return ""  # the package is there, a part of it is not: no path helps
    shown = [repr(entry) for entry in sys.path[:_PATHS_SHOWN]]
    more = f", and {len(sys.path) - _PATHS_SHOWN} more" if len(sys.path) > _PATHS_SHOWN else ""
    return (
        f"\n(this worker searched {', '.join(shown)}{more}: what was in the driver's sys.path when it called "
        f"init(). Add the folder of {top!r} before init(), or install it.)"
    )


def describe_culprit(value: Any, path: str) -> str:
    culprit_path, culprit = find_culprit(value, path)
    return "" if culprit is value else f"{culprit_path} is {a_kind(culprit)}"


# An error learns only while it is pickled that it cannot be; the finder stands to the right of exceptions/.
task_error.describe_culprit = describe_culprit
task_error.trial, task_error.forgotten = trial, contained_sink
carried.unpickle = loads_counted
carried.pickler = Pickler


def peek(payload: bytes) -> BaseException:
    """The error of an error payload, for its text: the user's own exception inside stays closed.

    So no code of users runs and no reference comes alive. Whoever asks for the value gets it whole.
    """
    try:
        packed = unpack(payload)
        error = _peek(packed.inband, packed.buffers)
    except Exception as problem:
        return RayError(f"an error that cannot be shown here ({problem})")
    return error if isinstance(error, BaseException) else RayError(repr(error))


def for_the_head(payload: bytes) -> bytes:
    """An error payload as the head takes it: of one that is too large, only the text."""
    if len(payload) <= HEAD_ERROR_BYTES:
        return payload
    error = peek(payload)
    size, most = len(payload) >> 20, HEAD_ERROR_BYTES >> 20
    left = f"(with what it holds it takes {size} MiB, and {most} are allowed: only its text was sent)"
    if not isinstance(error, RayTaskError):
        return dump_error(RayError(f"{_cut(str(error))}\n{left}"))
    text, notes = vars(error)["traceback_str"], _notes(error)
    vars(error).update(traceback_str=f"{_cut(text)}\n{left}", _cause=RayError(left))
    if notes:
        vars(error)["__notes__"] = [_cut("\n".join(notes))]
    return dump_error(error)


class _Peeking(pickle.Unpickler):
    """Makes what is ours and plain, nothing else: no reference, for nobody counts it."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (task_error.__name__, task_error._rebuild.__name__):
            return _closed
        if (module, name) == (__name__, _actor_died.__name__):
            return _actor_died_closed
        is_ours = module.partition(".")[0] == "beamlet" and not module.startswith("beamlet.api.")
        if is_ours or (module, name) in _PLAIN:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds a {module}.{name}")


_PLAIN = {("builtins", "set"), ("builtins", "frozenset"), ("copyreg", "_reconstructor")}


def _closed(state: dict[str, Any], cause: bytes, is_dual: bool) -> RayTaskError:
    error = RayTaskError("", "", RayError("left closed"))
    vars(error).update(state, _cause=error.cause)
    return error


def _actor_died_closed(inband: bytes, buffers: list[bytes], who: str) -> ActorDiedError:
    return ActorDiedError(_peek(inband, buffers), who=who)


def _peek(inband: bytes, buffers: list[bytes]) -> Any:
    return _Peeking(io.BytesIO(inband), buffers=buffers).load()


def dump_made(kind: type[RayError], *args: str | None) -> bytes:
    """The payload of ``kind(*args)``, made when it is loaded: a dozen times cheaper than dumping one."""
    return pack(Serialized(ERROR, pickle.dumps(_Made(kind, args), 5), [], []))


class _Made:
    """Pickles as the error that it becomes when it is unpickled."""

    def __init__(self, kind: type[RayError], args: tuple[str | None, ...]) -> None:
        self._parts = kind, args

    def __reduce__(self) -> tuple[type[RayError], tuple[str | None, ...]]:
        return self._parts


def died_of(error: bytes, who: str = "") -> bytes:
    """The ActorDiedError of what ``__init__`` raised, both as error payloads; what is inside stays closed."""
    packed = unpack(error)
    later = pickle.dumps(_ActorDied(packed.inband, packed.buffers, who), 5)
    return pack(Serialized(ERROR, later, [], packed.contained))


class _ActorDied:
    """Pickles as the ActorDiedError that it becomes when it is unpickled."""

    def __init__(self, inband: bytes, buffers: list[bytes], who: str) -> None:
        self._parts = inband, buffers, who

    def __reduce__(self) -> tuple[Any, ...]:
        return _actor_died, self._parts


def _actor_died(inband: bytes, buffers: list[bytes], who: str) -> ActorDiedError:
    return ActorDiedError(rebuild(ERROR, inband, [bytearray(buffer) for buffer in buffers]), who=who)


def format_without_our_frames(error: BaseException) -> str:
    """The traceback with chained causes and group members and their notes, minus the frames of our files.

    Its own notes are not in it: the error that carries it has them, and whoever prints that shows them.

    A stack that lies wholly in our files stays whole: then the bug is ours, and it must be findable.  Unless
    the error was made for users, whose text says it all.
    """
    try:
        report = traceback.TracebackException.from_exception(error, compact=True)
        for part in _parts(report):
            _drop_our_frames(part)
        if made_for_users(error) and all(map(_is_ours, report.stack)):
            report.stack = traceback.StackSummary()
        report.__notes__ = None
        if isinstance(error, RayTaskError) and error.__cause__ is error.cause.__cause__:
            report.__cause__ = None  # the error's text tells of it
        text = "".join(report.format())
    except Exception as problem:  # the user's __getattr__, __notes__ or loader may itself be broken
        text = _plain(error, problem)
    return text.removeprefix(_HEADER).rstrip("\n")


def _plain(error: BaseException, problem: Exception) -> str:
    """Frames and text of an error whose class, or what it is chained to, breaks Python's own report."""
    why = f"formatting it raised {type(problem).__name__}: {problem}"
    try:
        stack = traceback.extract_tb(error.__traceback__)
        frames = traceback.format_list([frame for frame in stack if not _is_ours(frame)] or stack)
    except Exception:  # it was the loader of a user's module, as the text says
        frames = []
    return "".join([*frames, task_error.quoted(error, why)])


def _parts(report: traceback.TracebackException | None) -> Iterator[traceback.TracebackException]:
    """A report and everything chained to it or grouped in it; ``from_exception`` has cut all cycles."""
    pending = [report]
    while pending:
        part = pending.pop()
        if part is not None:
            yield part
            pending += [part.__cause__, part.__context__, *(part.exceptions or ())]


def _drop_our_frames(report: traceback.TracebackException) -> None:
    theirs = [frame for frame in report.stack if not _is_ours(frame)]
    if theirs:
        report.stack = traceback.StackSummary.from_list(theirs)


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith(OUR_FOLDER)
