"""● Arguments of ``init()``: which there are, what they must be, what became of Ray's older ones."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from beamlet.api.job_config import JobConfig

#: Ray's arguments that mean nothing here (yet): accepted, because they change nothing that a program sees.
_ACCEPTED = frozenset(
    {
        "include_dashboard", "dashboard_host", "dashboard_port", "configure_logging",
        "logging_format", "logging_config", "enable_resource_isolation", "cgroup_path", "system_reserved_cpu",
        "system_reserved_memory", "proxy_server_url", "object_spilling_directory",
        "_enable_object_reconstruction",
        "_redis_username", "_redis_password", "_plasma_directory", "_node_ip_address", "_node_name",
        "_driver_object_store_memory", "_metrics_export_port", "_temp_dir", "_tracing_startup_hook",
        "_skip_env_hook", "_system_config", "labels", "_credentials", "_metadata", "ray_debugger_external",
    }
)  # fmt: skip

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


@dataclass(slots=True)
class InitOptions:
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
    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    log_to_driver: bool = True
    logging_level: int = logging.INFO
    compat: str = ""
    preload: list[str] = field(default_factory=list)
    #: Seconds until a request that no node can ever fit fails; "wait": never, as in Ray.
    infeasible: str = "raise"
    infeasible_grace_s: float = 10.0
    given: frozenset[str] = frozenset()

    @property
    def waits_for_infeasible(self) -> bool:
        return self.infeasible == "wait" or self.compat == "ray"

    def refuse_node_arguments(self, address: str) -> None:
        """Joining: what the node offers was decided by whoever started it. Raises ValueError."""
        wrong = [name for name in _NODE_ARGUMENTS if name in self.given]
        if wrong:
            raise ValueError(
                f"When connecting to an existing cluster ({address}), {', '.join(wrong)} must not be "
                "provided: "
                "the node offers what it was started with."
            )


def checked(address: str | None, options: Mapping[str, Any], env: Mapping[str, str]) -> InitOptions:
    """Validate what the user gave. Raises RuntimeError (unknown), TypeError, ValueError."""
    result = InitOptions(address=_address(address), given=frozenset(options))
    result.compat = env.get("BEAMLET_COMPAT", "")
    result.log_to_driver = env.get("BEAMLET_LOG_TO_DRIVER", env.get("RAY_LOG_TO_DRIVER", "1")) != "0"
    # What job_config says must find what the arguments of their own have said.
    for name, value in sorted(options.items(), key=lambda item: item[0] == "job_config"):
        if name in _REPLACED and (name != "local_mode" or value):
            raise RuntimeError(f"init({name}=…): {_REPLACED[name]}.")
        setter = _SETTERS.get(name)
        if setter is not None:
            if value is not None:
                setter(result, value)
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

    near = difflib.get_close_matches(name, [*_SETTERS, *_ACCEPTED], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise RuntimeError(f"Unknown keyword argument(s): {name}.{hint}")


def _address(address: Any) -> str | None:
    if address is not None and not isinstance(address, str):
        raise TypeError(f"address must be a str, not {type(address).__name__}")
    if address is not None and address.startswith(("http://", "https://")):
        raise ValueError(
            f"address {address!r} looks like a dashboard's; init() takes 'auto', 'local' or a session "
            "directory"
        )
    return address


def _amount(name: str) -> Any:
    def set_(options: InitOptions, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"init({name}=…) must be a number, not {type(value).__name__}")
        if value < 0:
            raise ValueError(f"init({name}={value!r}) must not be negative")
        setattr(options, name.removeprefix("_"), value)

    return set_


def _typed(name: str, *types: type) -> Any:
    def set_(options: InitOptions, value: Any) -> None:
        if not isinstance(value, types):
            expected = " or ".join(kind.__name__ for kind in types)
            raise TypeError(f"init({name}=…) must be {expected}, not {type(value).__name__}")
        setattr(options, name, value)

    return set_


def _set_level(options: InitOptions, value: Any) -> None:
    level = logging.getLevelName(value.upper()) if isinstance(value, str) else value
    if not isinstance(level, int):
        raise ValueError(f"init(logging_level={value!r}) is no logging level")
    options.logging_level = level


def _set_namespace(options: InitOptions, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"init(namespace=…) must be a str, not {type(value).__name__}")
    if not value:
        raise ValueError('init(namespace="") must not be empty; leave it out for an anonymous one')
    options.namespace = value


def _set_runtime_env(options: InitOptions, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"init(runtime_env=…) must be a dict or RuntimeEnv, not {type(value).__name__}")
    env_vars = value.get("env_vars") or {}
    for key, text in env_vars.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise TypeError(f"runtime_env['env_vars'] must be of str → str, got {key!r}: {text!r}")
    options.runtime_env = value


def _set_job_config(options: InitOptions, value: Any) -> None:
    """What it says counts where no argument of its own says otherwise; environment variables are merged."""
    if not isinstance(value, JobConfig):
        raise TypeError(f"init(job_config=…) must be a JobConfig, not {type(value).__name__}")
    if value.ray_namespace is not None and not options.namespace:
        _set_namespace(options, value.ray_namespace)
    own = dict(options.runtime_env)
    merged = {**(value.runtime_env.get("env_vars") or {}), **(own.get("env_vars") or {})}
    _set_runtime_env(options, {**value.runtime_env, **own, "env_vars": merged})


def _set_choice(name: str, *choices: str) -> Any:
    def set_(options: InitOptions, value: Any) -> None:
        if value not in choices:
            raise ValueError(f"init({name}={value!r}): choose one of {', '.join(map(repr, choices))}")
        setattr(options, name, value)

    return set_


_SETTERS: dict[str, Any] = {
    "num_cpus": _amount("num_cpus"),
    "num_gpus": _amount("num_gpus"),
    "_memory": _amount("_memory"),
    "object_store_memory": _amount("object_store_memory"),
    "job_config": _set_job_config,
    "resources": _typed("resources", dict),
    "ignore_reinit_error": _typed("ignore_reinit_error", bool),
    "namespace": _set_namespace,
    "runtime_env": _set_runtime_env,
    "log_to_driver": _typed("log_to_driver", bool),
    "logging_level": _set_level,
    "compat": _set_choice("compat", "", "ray"),
    "preload": _typed("preload", list),
    "infeasible": _set_choice("infeasible", "raise", "wait"),
    "infeasible_grace_s": _amount("infeasible_grace_s"),
}
