"""● Arguments of ``init()``: which there are, what they must be, what became of Ray's older ones."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from beamlet.api import option_rules as rules
from beamlet.api.argument_table import integer
from beamlet.api.job_config import JobConfig
from beamlet.api.logging_config import LoggingConfig
from beamlet.api.runtime_env import check_fields

#: Ray's arguments that mean nothing here: accepted, because they change nothing that a program sees.
_ACCEPTED = frozenset(
    {
        "dashboard_host", "dashboard_port", "cgroup_path", "proxy_server_url", "ray_debugger_external",
        "_enable_object_reconstruction", "_redis_username", "_redis_password", "_driver_object_store_memory",
        "_metrics_export_port", "_skip_env_hook", "_credentials", "_metadata",
    }
)  # fmt: skip

#: Ray's arguments that a program may count on: accepted, with a warning that says what to do instead.
_WITHOUT_EFFECT = {
    "include_dashboard": "there is no dashboard; `beamlet status` shows what it would",
    "enable_resource_isolation": "",
    "system_reserved_cpu": "lower num_cpus instead",
    "system_reserved_memory": "lower _memory instead",
    "object_spilling_directory": "objects are not spilled to disk",
    "labels": "nodes have no labels yet",
    "_plasma_directory": "the object store has no file",
    "_node_ip_address": "",
    "_node_name": "",
    "_temp_dir": "set the environment variable BEAMLET_TMPDIR instead",
    "_tracing_startup_hook": "",
    "_system_config": "",
}

#: Ray's arguments that are gone there too, and what replaced them.
_REPLACED = {
    "local_mode": "local_mode is no longer supported: use plain function calls (f.local(…)) or a debugger",
    "storage": "storage was removed together with workflows",
    "redis_address": "redis_address is now called address",
    "temp_dir": "temp_dir is now _temp_dir, or the environment variable BEAMLET_TMPDIR",
    "node_ip_address": "node_ip_address is now _node_ip_address",
    "num_workers": "num_workers is now num_cpus",
    "include_webui": "include_webui is now include_dashboard",
}

_NODE_ARGUMENTS = (
    "num_cpus",
    "num_gpus",
    "resources",
    "object_store_memory",
    "_memory",
    "labels",
    "_system_config",
)


_LEVEL_MAX = 1_000_000


class InitOptions(msgspec.Struct):
    """What the rest of ``init`` reads."""

    address: str | None = None
    num_cpus: float | None = None
    num_gpus: float | None = None
    resources: Mapping[str, float] | None = None
    memory: float | None = None
    object_store_memory: int | None = None
    ignore_reinit_error: bool = False
    #: Random when not given, so that drivers do not meet by accident.
    namespace: str = ""
    runtime_env: Mapping[str, Any] = msgspec.field(default_factory=dict)
    log_to_driver: bool = True
    #: None: as the environment or the program's own logging has it.
    logging_level: int | None = None
    logging_format: str = ""
    configure_logging: bool = True
    logging_config: LoggingConfig | None = None
    compat: str = ""
    preload: list[str] = msgspec.field(default_factory=list)
    #: Seconds until a request that no node can ever fit fails; "wait": never, as in Ray.
    infeasible: str = "raise"
    infeasible_grace_s: float = 10.0
    given: frozenset[str] = frozenset()
    #: Arguments that were given and change nothing.
    without_effect: list[str] = msgspec.field(default_factory=list)

    def remarks(self) -> list[str]:
        """What to warn of: one sentence for each argument that was given in vain."""
        said = [(name, _WITHOUT_EFFECT[name]) for name in self.without_effect]
        return [
            f"init({name}=…) has no effect in this release" + (f": {instead}" if instead else "") + "."
            for name, instead in said
        ]

    @property
    def waits_for_infeasible(self) -> bool:
        return self.infeasible == "wait" or self.compat == "ray"

    def refuse_node_arguments(self, address: str) -> None:
        """Joining: what the node offers was decided by whoever started it. Raises ValueError."""
        wrong = [name for name in _NODE_ARGUMENTS if name in self.given]
        if wrong:
            raise ValueError(
                f"When connecting to an existing cluster ({address}), {', '.join(wrong)} must not be "
                "provided: the node offers what it was started with."
            )


def checked(address: str | None, options: Mapping[str, Any], env: Mapping[str, str]) -> InitOptions:
    """Validate what the user gave. Raises RuntimeError (unknown), TypeError, ValueError."""
    result = InitOptions(address=_address(address), given=frozenset(options))
    result.compat = env.get("BEAMLET_COMPAT", "")
    result.log_to_driver = env.get("BEAMLET_LOG_TO_DRIVER", env.get("RAY_LOG_TO_DRIVER", "1")) != "0"
    _set_level_by(result, env)
    # What job_config says must find what the arguments of their own have said.
    for name, value in sorted(options.items(), key=lambda item: item[0] == "job_config"):
        if name in _REPLACED and (name != "local_mode" or value):
            raise RuntimeError(f"init({name}=…): {_REPLACED[name]}.")
        setter = _SETTERS.get(name)
        if setter is not None:
            if value is not None:
                setter(result, value)
        elif name in _WITHOUT_EFFECT:
            if value:
                result.without_effect.append(name)
        elif name not in _ACCEPTED and name != "local_mode":
            _unknown(name)
    result.namespace = result.namespace or str(uuid.uuid4())
    system = options.get("_system_config")
    if system is not None and not isinstance(system, Mapping):
        raise TypeError("The _system_config must be a dict.")
    return result


def _unknown(name: str) -> None:
    if name == "allow_multiple":
        raise RuntimeError("init(allow_multiple=…) is for connections from another machine only.")
    import difflib

    near = difflib.get_close_matches(name, [*_SETTERS, *_ACCEPTED, *_WITHOUT_EFFECT], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise RuntimeError(f"Unknown keyword argument(s): {name}.{hint}")


def _address(address: Any) -> str | None:
    if address is not None and not isinstance(address, str):
        raise TypeError(_wrong("address", address, f"must be a str, not {rules.a_kind(address)}"))
    if address is None:
        return None
    try:
        known = rules.text(address)
    except ValueError as problem:
        raise ValueError(_wrong("address", address, str(problem))) from None
    if known.startswith(("http://", "https://")):
        raise ValueError(
            f"address {address!r} looks like a dashboard's; init() takes 'auto', 'local' or a session "
            "directory"
        )
    return known


def _wrong(name: str, value: object, problem: str) -> str:
    return f"init({name}={rules.brief(value)}): {name} {problem}"


def _amount(name: str) -> Any:
    """A number, also numpy's; not a bool, which would mean one."""

    def set_(options: InitOptions, value: Any) -> None:
        if rules.is_bool(value) or isinstance(value, str | bytes) or not hasattr(value, "__float__"):
            raise TypeError(_wrong(name, value, f"must be a number, not {rules.a_kind(value)}"))
        try:
            number = value if isinstance(value, int) else float(value)
        except Exception:
            raise TypeError(_wrong(name, value, f"must be a number, not {rules.a_kind(value)}")) from None
        try:
            amount = rules.amount(number)
        except ValueError as problem:
            raise ValueError(_wrong(name, value, str(problem))) from None
        setattr(options, name.removeprefix("_"), amount)

    return set_


def _bool(name: str) -> Any:
    def set_(options: InitOptions, value: Any) -> None:
        if not rules.is_bool(value):
            raise TypeError(_wrong(name, value, f"must be a bool, not {rules.a_kind(value)}"))
        setattr(options, name, bool(value))

    return set_


def _set_resources(options: InitOptions, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(_wrong("resources", value, f"must be a dict, not {rules.a_kind(value)}"))
    try:
        options.resources = rules.custom_resources(value)
    except (TypeError, ValueError) as problem:
        text = str(problem).replace("use memory instead", "use _memory instead")
        raise type(problem)(_wrong("resources", value, text)) from None


def _set_preload(options: InitOptions, value: Any) -> None:
    if not isinstance(value, list | tuple):
        raise TypeError(
            _wrong("preload", value, f"must be a list of module names, not {rules.a_kind(value)}")
        )
    for each in value:
        if not isinstance(each, str):
            raise TypeError(
                _wrong("preload", value, f"must contain names of modules, but contains {rules.brief(each)}")
            )
        if not all(part.isidentifier() for part in each.split(".")):
            raise ValueError(
                _wrong("preload", value, f"must contain names of modules; {rules.brief(each)} cannot be one")
            )
    options.preload = [str.__str__(each) for each in value]


def _set_level(options: InitOptions, value: Any) -> None:
    """A number, or a name in any case."""
    level = logging.getLevelNamesMapping().get(value.upper()) if isinstance(value, str) else value
    if not isinstance(value, str):
        try:
            level = integer()(value)
        except TypeError:
            text = f"must be a logging level, not {rules.a_kind(value)}"
            raise TypeError(_wrong("logging_level", value, text)) from None
        except ValueError:
            level = None  # too large for any
    if level is None or not 0 <= level <= _LEVEL_MAX:
        raise ValueError(_wrong("logging_level", value, "must be a logging level, such as logging.INFO"))
    options.logging_level = int(level)


def _set_level_by(options: InitOptions, env: Mapping[str, str]) -> None:
    for name in ("BEAMLET_LOGGER_LEVEL", "RAY_LOGGER_LEVEL"):
        if env.get(name):
            try:
                _set_level(options, env[name])
            except (TypeError, ValueError):
                raise ValueError(
                    f"the environment variable {name}={env[name]!r} is not a logging level; use debug, info, "
                    "warning, error or critical"
                ) from None
            return


def _set_format(options: InitOptions, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(_wrong("logging_format", value, f"must be a str, not {rules.a_kind(value)}"))
    try:
        logging.Formatter(rules.text(value))
    except ValueError as problem:
        raise ValueError(
            _wrong("logging_format", value, f"is not a valid logging format: {problem}")
        ) from None
    options.logging_format = rules.text(value)


def _set_logging_config(options: InitOptions, value: Any) -> None:
    if not isinstance(value, LoggingConfig):
        raise TypeError(
            _wrong("logging_config", value, f"must be a LoggingConfig, not {rules.a_kind(value)}")
        )
    if value.log_level not in logging.getLevelNamesMapping():
        raise ValueError(
            _wrong("logging_config", value, f"has log_level {value.log_level!r}, which does not exist")
        )
    options.logging_config = value


def _set_namespace(options: InitOptions, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(_wrong("namespace", value, f"must be a str, not {rules.a_kind(value)}"))
    if not value:
        raise ValueError('init(namespace="") must not be empty; leave it out for an anonymous one')
    try:
        options.namespace = rules.text(value)
    except ValueError as problem:
        raise ValueError(_wrong("namespace", value, str(problem))) from None


def _set_runtime_env(options: InitOptions, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(
            _wrong("runtime_env", value, f"must be a dict or RuntimeEnv, not {rules.a_kind(value)}")
        )
    try:
        options.runtime_env = check_fields(value)
    except (TypeError, ValueError) as problem:
        raise type(problem)(_wrong("runtime_env", value, str(problem))) from None


def _set_job_config(options: InitOptions, value: Any) -> None:
    """What it says counts where no argument of its own says otherwise; environment variables are merged."""
    if not isinstance(value, JobConfig):
        raise TypeError(_wrong("job_config", value, f"must be a JobConfig, not {rules.a_kind(value)}"))
    if value.py_logging_config is not None and options.logging_config is None:
        _set_logging_config(options, value.py_logging_config)
    if value.ray_namespace is not None and not options.namespace:
        _set_namespace(options, value.ray_namespace)
    own = dict(options.runtime_env)
    _set_runtime_env(options, value.runtime_env)
    theirs = dict(options.runtime_env)
    merged = {**(theirs.get("env_vars") or {}), **(own.get("env_vars") or {})}
    options.runtime_env = {**theirs, **own, "env_vars": merged}


def _set_choice(name: str, *choices: str) -> Any:
    def set_(options: InitOptions, value: Any) -> None:
        if not isinstance(value, str) or value not in choices:
            known = ", ".join(map(repr, choices))
            raise ValueError(_wrong(name, value, f"must be one of {known}"))
        setattr(options, name, value)

    return set_


_SETTERS: dict[str, Any] = {
    "num_cpus": _amount("num_cpus"),
    "num_gpus": _amount("num_gpus"),
    "_memory": _amount("_memory"),
    "object_store_memory": _amount("object_store_memory"),
    "job_config": _set_job_config,
    "resources": _set_resources,
    "ignore_reinit_error": _bool("ignore_reinit_error"),
    "namespace": _set_namespace,
    "runtime_env": _set_runtime_env,
    "log_to_driver": _bool("log_to_driver"),
    "logging_level": _set_level,
    "logging_format": _set_format,
    "configure_logging": _bool("configure_logging"),
    "logging_config": _set_logging_config,
    "compat": _set_choice("compat", "", "ray"),
    "preload": _set_preload,
    "infeasible": _set_choice("infeasible", "raise", "wait"),
    "infeasible_grace_s": _amount("infeasible_grace_s"),
}
