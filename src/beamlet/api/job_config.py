"""● ``JobConfig``: what ``init(job_config=…)`` is told of a job as a whole. Data, checked when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from beamlet.api.logging_config import LoggingConfig
from beamlet.api.option_rules import a_kind, brief
from beamlet.api.runtime_env import RuntimeEnv

LIFETIMES = ("detached", "non_detached")


class JobConfig:
    """Namespace, runtime environment, metadata and code path of a job.

    Raises TypeError for what has the wrong type, ValueError for an unknown actor lifetime.
    """

    def __init__(
        self,
        jvm_options: list[str] | None = None,
        code_search_path: list[str] | tuple[str, ...] | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        _client_job: bool = False,
        metadata: dict[str, str] | None = None,
        ray_namespace: str | None = None,
        default_actor_lifetime: str = "non_detached",
        _disable_job_level_lineage_reconstruction: bool = False,
        _py_driver_sys_path: list[str] | None = None,
    ) -> None:
        if code_search_path is not None and not isinstance(code_search_path, list | tuple):
            raise TypeError(
                f"code_search_path must be a list or tuple of directories, not {a_kind(code_search_path)}"
            )
        if metadata is not None and not isinstance(metadata, Mapping):
            raise TypeError(f"metadata must be a dict, not {_shown(metadata)}")
        self.jvm_options = jvm_options or []
        self.code_search_path = list(code_search_path or [])
        self.metadata = dict(metadata or {})
        self.ray_namespace: str | None = None
        if ray_namespace is not None:
            self.set_ray_namespace(ray_namespace)
        self.py_logging_config: LoggingConfig | None = None
        self._client_job = _client_job
        self._disable_job_level_lineage_reconstruction = _disable_job_level_lineage_reconstruction
        self._py_driver_sys_path = _py_driver_sys_path or []
        self.set_runtime_env(runtime_env)
        self.set_default_actor_lifetime(default_actor_lifetime)

    def set_metadata(self, key: str, value: str) -> None:
        self.metadata[key] = value

    def set_runtime_env(self, runtime_env: Mapping[str, Any] | None, validate: bool = False) -> None:
        """``validate``: raise TypeError here for env_vars that are no str, not at ``init()``."""
        if runtime_env is not None and not isinstance(runtime_env, Mapping):
            raise TypeError(f"runtime_env must be a dict, not {_shown(runtime_env)}")
        fields = dict(runtime_env or {})
        self.runtime_env: dict[str, Any] = RuntimeEnv(**fields) if validate else fields

    def set_ray_namespace(self, ray_namespace: str) -> None:
        if not isinstance(ray_namespace, str):
            raise TypeError(f"ray_namespace must be a str, not {_shown(ray_namespace)}")
        self.ray_namespace = ray_namespace

    def set_default_actor_lifetime(self, default_actor_lifetime: Any) -> None:
        if not isinstance(default_actor_lifetime, str) or default_actor_lifetime not in LIFETIMES:
            raise ValueError(
                f"default_actor_lifetime must be one of {', '.join(map(repr, LIFETIMES))}, "
                f"not {brief(default_actor_lifetime)}"
            )
        self.default_actor_lifetime = default_actor_lifetime

    def set_py_logging_config(self, logging_config: LoggingConfig | None = None) -> None:
        self.py_logging_config = logging_config

    def ensure_logging_config(self, config: LoggingConfig | dict[str, Any]) -> LoggingConfig:
        """``config`` as a LoggingConfig, whichever form it has."""
        return config if isinstance(config, LoggingConfig) else LoggingConfig.from_dict(config)

    @classmethod
    def from_json(cls, job_config_json: Mapping[str, Any]) -> Self:
        """From a decoded JSON object; keys as the constructor's, ``ray_namespace`` also as ``namespace``."""
        return cls(
            jvm_options=job_config_json.get("jvm_options"),
            code_search_path=job_config_json.get("code_search_path"),
            runtime_env=job_config_json.get("runtime_env"),
            metadata=job_config_json.get("metadata"),
            ray_namespace=job_config_json.get("ray_namespace", job_config_json.get("namespace")),
            _client_job=bool(job_config_json.get("client_job", False)),
        )


def _shown(value: object) -> str:
    return f"{a_kind(value)}: {brief(value)}"
