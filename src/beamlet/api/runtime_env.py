"""● ``RuntimeEnv``: what a worker process must have around it, as a dictionary checked when it is made.

Only ``env_vars`` takes effect in this release.  The other fields that Ray knows are kept as given, so that
programs that set them run; ``env_vars_of`` says once that they have no effect.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any, Self

from beamlet.api import option_rules as rules
from beamlet.base.environment import to_wire

#: Fields that Ray knows and this release does not act on, and what they may be.
OTHER_FIELDS: Mapping[str, tuple[type, ...]] = {
    "py_modules": (list, tuple),
    "py_executable": (str,),
    "working_dir": (str, PurePath),
    "excludes": (list, tuple),
    "pip": (list, tuple, dict, str),
    "conda": (dict, str),
    "uv": (list, tuple, dict, str),
    "container": (dict,),
    "image_uri": (str,),
    "worker_process_setup_hook": (str, Callable),  # type: ignore[dict-item]  # an ABC is good for isinstance
    "nsight": (str, dict),
    "rocprof_sys": (str, dict),
    "java_jars": (list, tuple),
}
#: Known, and without any effect that a program could miss.
_QUIET_FIELDS = ("config", "env_vars")

_told: set[str] = set()


def env_vars_of(runtime_env: Mapping[str, Any], whose: str) -> dict[str, str]:
    """The part that takes effect, as messages carry it. Warns, once per field, of what has none.

    whose: for the message, as in "task f".
    """
    unused = [n for n, value in runtime_env.items() if value and n not in (*_QUIET_FIELDS, *_told)]
    ignored = [name for name in unused if name in OTHER_FIELDS]
    if ignored:
        _told.update(ignored)
        _warn(
            f"runtime_env of {whose}: {', '.join(ignored)} has no effect in this release, which applies "
            "env_vars only. Workers see the driver's sys.path, directory and installed packages as they are."
        )
    for name in unused:
        if name not in OTHER_FIELDS:
            _told.add(name)
            near = rules.nearest(name, [*OTHER_FIELDS, *_QUIET_FIELDS])
            _warn(f"runtime_env of {whose}: there is no field {name!r}, and it is ignored{near}")
    return to_wire(runtime_env.get("env_vars") or {})


def _warn(text: str) -> None:
    logging.getLogger("beamlet").warning("%s", text)


def check_fields(runtime_env: Mapping[str, Any]) -> dict[str, Any]:
    """A new dictionary. Raises TypeError for fields that cannot be what they are, with a clause."""
    for name, value in runtime_env.items():
        if not isinstance(name, str):
            raise TypeError(f"must have str as its keys, but has {rules.brief(name)}")
        kinds = OTHER_FIELDS.get(name)
        if kinds and value is not None and not isinstance(value, kinds):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise TypeError(f"has {name!r}: {rules.brief(value)}, which must be {names}")
    given = dict(runtime_env)
    if given.get("env_vars") is not None:
        try:
            given["env_vars"] = rules.environment_variables(given["env_vars"])
        except (TypeError, ValueError) as problem:
            raise type(problem)(f"has an invalid 'env_vars': it {problem}") from None
    return given


class RuntimeEnv(dict[str, Any]):
    """A runtime environment: ``RuntimeEnv(env_vars={"OMP_NUM_THREADS": "1"})``. Empty fields are left out.

    Raises TypeError unless env_vars maps str to str.

    >>> RuntimeEnv(env_vars={"LEVEL": "2"}, pip=None)
    {'env_vars': {'LEVEL': '2'}}
    """

    def __init__(
        self,
        *,
        env_vars: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
        _validate: bool = True,
        **fields: Any,
    ) -> None:
        super().__init__()
        if env_vars is not None and _validate:
            env_vars = check_env_vars(env_vars)
        given = {"env_vars": dict(env_vars) if env_vars else None, "config": config, **fields}
        self.update({name: value for name, value in given.items() if not _is_empty(value)})

    def env_vars(self) -> dict[str, str]:
        """The environment variables; a new dictionary."""
        return dict(self.get("env_vars") or {})

    def to_dict(self) -> dict[str, Any]:
        return dict(self)

    def set(self, name: str, value: Any) -> None:
        """Set one field; None removes it."""
        if name == "env_vars" and value is not None:
            value = check_env_vars(value)
        if value is None:
            self.pop(name, None)
        else:
            self[name] = value

    def serialize(self) -> str:
        """JSON, keys sorted: equal environments give equal text."""
        return json.dumps(self, sort_keys=True)

    @classmethod
    def deserialize(cls, text: str) -> Self:
        """Back from ``serialize()``."""
        return cls(_validate=False, **json.loads(text))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), dict(self))


def _is_empty(value: object) -> bool:
    """By type first: comparing with what is no container of Python's may mean anything (numpy)."""
    return value is None or (isinstance(value, dict | list) and not value)


def _rebuild(cls: type[RuntimeEnv], fields: dict[str, Any]) -> RuntimeEnv:
    return cls(_validate=False, **fields)


class RuntimeEnvConfig(dict[str, Any]):
    """How an environment is made: accepted and kept; nothing takes that long in this release."""

    def __init__(
        self,
        setup_timeout_seconds: int | None = None,
        eager_install: bool | None = None,
        log_files: list[str] | None = None,
    ) -> None:
        timeout = 600 if setup_timeout_seconds is None else setup_timeout_seconds
        if not isinstance(timeout, int):
            raise TypeError(f"setup_timeout_seconds must be an int, got {type(timeout).__name__}")
        if timeout <= 0 and timeout != -1:
            raise ValueError(f"setup_timeout_seconds must be greater than zero or -1 (never), got {timeout}")
        eager = True if eager_install is None else eager_install
        if not isinstance(eager, bool):
            raise TypeError(f"eager_install must be a bool, got {type(eager).__name__}")
        super().__init__(setup_timeout_seconds=timeout, eager_install=eager, log_files=list(log_files or []))


def check_env_vars(env_vars: Any) -> dict[str, str]:
    """What the kernel takes. Raises TypeError unless it maps str to str, ValueError for impossible text."""
    try:
        return rules.environment_variables(env_vars)
    except (TypeError, ValueError) as problem:
        raise type(problem)(f"runtime_env['env_vars'] {problem}") from None
