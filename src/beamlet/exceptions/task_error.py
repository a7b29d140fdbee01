"""The error of a task whose own code raised: a ``RayTaskError`` that is also what the user raised.

    try: beamlet.get(f.remote())
    except KeyError as error: …        # f raised KeyError: the error is a RayTaskError *and* a KeyError

The class of such an error is made once per class of cause, and shown as ``RayTaskError(KeyError)``.  Its
text is one traceback, from the line that called ``.remote()`` to the line that raised; it was written in
the worker, where the source and the stack were.  Notes and the explicit cause (``__notes__``, ``__cause__``)
are the user's error's; printing it shows notes after the text, as ever.  ``serialization/remote_error.py``
fills this in.
"""

from __future__ import annotations

import linecache
import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, Self

import msgspec

from beamlet.base.wire_text import wire_text
from beamlet.exceptions import carried
from beamlet.exceptions.root import RayError
from beamlet.exceptions.source_lines import with_typed_source

logger = logging.getLogger("beamlet")
#: Dual classes kept; one per class of exception that tasks raise, so only runaway class factories pass it.
DUAL_CLASSES_MAX = 1024


class CallSite(msgspec.Struct, frozen=True, gc=False):
    """Where in the caller's code ``.remote()`` was called. As text, fit for messages: ``app.py:12``."""

    filename: str
    line: int
    function: str = ""

    def __str__(self) -> str:
        return f"{wire_text(os.path.basename(self.filename))}:{self.line}"

    def as_frame(self) -> str:
        """The two lines that a traceback prints for it, or one where the source is not at hand."""
        head = f'  File "{self.filename}", line {self.line}, in {self.function or "<unknown>"}\n'
        source = linecache.getline(self.filename, self.line).strip()
        return head + (f"    {source}\n" if source else "")


class RayTaskError(RayError):
    """A task's own code raised; ``cause`` is what it raised, the text is where.

    traceback_str: complete, its first line names the task and its process.
    """

    function_name: str
    traceback_str: str
    proctitle: str
    pid: int | None
    ip: str | None
    actor_repr: str | None
    call_site: CallSite | None

    def __init__(
        self,
        function_name: str,
        traceback_str: str,
        cause: BaseException,
        proctitle: str | None = None,
        pid: int | None = None,
        ip: str | None = None,
        actor_repr: str | None = None,
        actor_id: str | None = None,
    ) -> None:
        super().__init__(cause)
        # Straight to __dict__: a dual class inherits whatever properties and __setattr__ its cause has.
        vars(self).update(
            function_name=function_name,
            traceback_str=traceback_str,
            _cause=cause,
            proctitle=proctitle or f"beamlet::{function_name}",
            pid=pid,
            ip=ip,
            actor_repr=actor_repr,
            _actor_id=actor_id,
            call_site=None,
        )

    @property
    def cause(self) -> BaseException:
        """What the task raised, without a traceback (that is in the text)."""
        return vars(self)["_cause"]  # type: ignore[no-any-return]

    @property
    def actor_id(self) -> str | None:
        return vars(self)["_actor_id"]  # type: ignore[no-any-return]

    def with_notes(self) -> str:
        """The text for where it is quoted and not printed: Python prints notes, ``str`` has none of them."""
        return "\n".join([str(self), *vars(self).get("__notes__", ())])

    def called_from(self, site: CallSite) -> Self:
        """Record where the caller called ``.remote()``; the text then starts there. Returns self."""
        vars(self)["call_site"] = site
        return self

    def as_instanceof_cause(self) -> RayTaskError:
        """The error to raise: also an instance of the cause's class wherever Python allows that."""
        dual = _dual_class(type(self.cause))  # type: ignore[arg-type]  # mypy takes a class's __hash__ for its metaclass's
        if dual is None or isinstance(self, dual):
            return self
        try:
            error = _blank_dual(dual, self.cause)
        except TypeError:  # C keeps this class from being made without its constructor
            return self
        vars(error).update(vars(self))
        if self.cause.__cause__ is not None:
            # Past any __setattr__ of the class's own.
            object.__setattr__(error, "__cause__", self.cause.__cause__)
        return error

    make_dual_exception_instance = as_instanceof_cause

    def __getattr__(self, name: str) -> Any:
        # Only what is not found otherwise comes here: attributes that live on the instance the user raised.
        cause = vars(self).get("_cause")
        if cause is None or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(cause, name)

    def __str__(self) -> str:
        text = with_typed_source(vars(self)["traceback_str"])
        site: CallSite | None = vars(self)["call_site"]
        if site is None:
            return text
        header, _, rest = text.partition("\n")
        return f"{header}\n{site.as_frame()}{rest}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.cause!r})"

    def __reduce__(self) -> Any:
        state = {**vars(self), "_cause": None}
        is_dual = type(self) is not RayTaskError
        cause, note = carry(self.cause)
        if note:
            state["traceback_str"] += f"\n({note})"
        return _rebuild, (state, cause, is_dual)


def carry(cause: BaseException) -> tuple[bytes, str]:
    """The cause as bytes, and what is to be said about it.

    What in it cannot be pickled stays behind; if nothing of it can travel, a RayError quotes it.
    """
    try:
        with trial():
            return carried.dumps(cause), ""
    except Exception as problem:
        kind = type(cause).__name__
        culprit = describe_culprit(cause, kind)
        if culprit:
            note = f"{culprit}, which cannot be pickled and was left behind"
        else:  # no part of it is to blame, but how it is pickled: a __reduce__ of its own, say
            note = f"this {kind} cannot be pickled as it is: {type(problem).__name__}: {problem}"
        try:
            with forgotten():
                rest = carried.without_unpicklable(cause)
            with trial():
                return carried.dumps(rest), note
        except Exception:
            return carried.dumps(RayError(quoted(cause, f"it cannot be pickled: {problem}"))), note


def _name_nothing(value: Any, path: str) -> str:
    return ""


#: (value, path) → which part of the value cannot be pickled, "" if it is none.
#: ``serialization/remote_error.py`` knows better.
describe_culprit: Callable[[Any, str], str] = _name_nothing
#: Around pickling that may fail, and around pickling that only tries: the references that it noted are
#: forgotten, then and always. Set by the same file.
trial: Callable[[], AbstractContextManager[object]] = nullcontext
forgotten: Callable[[], AbstractContextManager[object]] = nullcontext


def _rebuild(state: dict[str, Any], cause_bytes: bytes, is_dual: bool) -> RayTaskError:
    try:
        cause = carried.loads(cause_bytes)
    except Exception as problem:
        last_line = state["traceback_str"].rstrip().rpartition("\n")[2]
        cause = RayError(
            f"{last_line} (its class cannot be rebuilt here: {type(problem).__name__}: {problem})"
        )
    error = RayTaskError("", "", cause)
    vars(error).update(state, _cause=cause)
    return error.as_instanceof_cause() if is_dual else error


def quoted(cause: BaseException, why: str) -> str:
    try:
        text = str(cause)
    except Exception as problem:
        text = f"<its __str__ raised {type(problem).__name__}>"
    return f"{type(cause).__qualname__}: {text} ({why})"


@lru_cache(maxsize=DUAL_CLASSES_MAX)
def _dual_class(cause_class: type[BaseException]) -> type[RayTaskError] | None:
    """None where an error cannot or should not be an instance of the cause's class.

    A dual KeyboardInterrupt or SystemExit would stop the caller, not inform it.
    """
    if issubclass(RayTaskError, cause_class) or not issubclass(cause_class, Exception):
        return None
    if issubclass(cause_class, RayTaskError):
        return cause_class
    name = f"RayTaskError({cause_class.__name__})"
    namespace = {"__module__": "beamlet.exceptions", "__qualname__": name, "__doc__": cause_class.__doc__}
    try:
        metaclass: Any = type(cause_class)
        return metaclass(name, (RayTaskError, cause_class), namespace)  # type: ignore[no-any-return]
    except Exception as problem:
        logger.warning(
            "%s cannot be subclassed (%s): `except %s` will not catch it when it comes from a task, "
            "`except RayTaskError` will",
            cause_class.__qualname__,
            problem,
            cause_class.__name__,
        )
        return None


def _blank_dual(dual: type[RayTaskError], cause: BaseException) -> RayTaskError:
    error = carried.blank(dual, carried.shape_of(cause))
    assert isinstance(error, RayTaskError)
    carried.copy_members(cause, error)
    BaseException.args.__set__(error, (cause,))  # type: ignore[attr-defined]
    return error
