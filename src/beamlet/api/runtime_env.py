"""● ``RuntimeEnv``: what a worker process must have around it, as a dictionary checked when it is made.

Only ``env_vars`` takes effect in this release.  The other fields that Ray knows are kept as given, so that
programs that set them run; ``env_vars_of`` says once that they have no effect.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, Self

from beamlet.api import option_rules as rules

#: Fields that Ray knows and this release does not act on.
OTHER_FIELDS = (
    *(
        "py_modules",
        "py_executable",
        "working_dir",
        "excludes",
        "pip",
        "conda",
        "uv",
        "container",
        "image_uri",
    ),
    *("worker_process_setup_hook", "nsight", "rocprof_sys", "java_jars"),
)


_told: set[str] = set()


def env_vars_of(runtime_env: Mapping[str, Any], whose: str) -> dict[str, str]:
    """The part that takes effect. Warns, once per field, of what has none.

    whose: for the message, as in "task f".
    """
    ignored = [name for name in runtime_env if name in OTHER_FIELDS and name not in _told]
    if ignored:
        _told.update(ignored)
        logging.getLogger("beamlet").warning(
            "runtime_env of %s: %s has no effect in this release, which applies env_vars only. Workers see "
            "the "
            "driver's sys.path, directory and installed packages as they are.",
            whose,
            ", ".join(ignored),
        )
    return dict(runtime_env.get("env_vars") or {})


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
        self.update({name: value for name, value in given.items() if value not in (None, {}, [])})

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
