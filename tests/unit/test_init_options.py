"""Arguments of init(): judged before anything starts."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from beamlet.api import backend
from beamlet.api.init_options import InitOptions, checked
from beamlet.api.job_config import JobConfig


def check(address: str | None = None, env: dict[str, str] | None = None, **options: Any) -> InitOptions:
    return checked(address, options, env or {})


def test_defaults_and_what_is_none_are_the_same() -> None:
    made = check(num_cpus=None, namespace=None, runtime_env=None, job_config=None)
    assert (made.num_cpus, made.logging_level, made.log_to_driver) == (None, None, True)
    assert made.runtime_env == {}


def test_namespaces_are_random_unless_given() -> None:
    assert check().namespace != check().namespace
    assert check(namespace="mine").namespace == "mine"


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"num_cpu": 1}, RuntimeError, "num_cpu. Did you mean 'num_cpus'"),
        ({"local_mode": True}, RuntimeError, "no longer supported"),
        ({"redis_address": "x"}, RuntimeError, "address"),
        ({"num_cpus": -1}, ValueError, "negative"),
        ({"num_cpus": "2"}, TypeError, "a number, not a str"),
        ({"num_cpus": True}, TypeError, "a number, not a bool"),
        ({"namespace": ""}, ValueError, "must not be empty"),
        ({"namespace": 3}, TypeError, "must be a str"),
        ({"runtime_env": "x"}, TypeError, "dict or RuntimeEnv"),
        ({"runtime_env": {"env_vars": {"A": 1}}}, TypeError, "'A' is 1"),
        ({"logging_level": "loud"}, ValueError, "must be a logging level"),
        ({"compat": "dask"}, ValueError, "'ray'"),
        ({"job_config": {}}, TypeError, "must be a JobConfig, not a dict"),
        ({"_system_config": "x"}, TypeError, "dict"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        check(**options)


def test_arguments_of_ray_that_mean_nothing_here_are_taken() -> None:
    check(include_dashboard=True, dashboard_port=8265, _system_config={"a": 1}, local_mode=False)


@pytest.mark.parametrize("address", [5, b"auto"])
def test_addresses_are_text(address: Any) -> None:
    with pytest.raises(TypeError, match="address must be a str"):
        check(address)


def test_the_environment_counts_where_no_argument_does() -> None:
    assert not check(env={"RAY_LOG_TO_DRIVER": "0"}).log_to_driver
    assert check(env={"RAY_LOG_TO_DRIVER": "0", "BEAMLET_LOG_TO_DRIVER": "1"}).log_to_driver
    assert check(env={"BEAMLET_COMPAT": "ray"}).waits_for_infeasible
    assert not check(env={"BEAMLET_COMPAT": "ray"}, compat="").waits_for_infeasible


def test_a_job_config_counts_where_no_argument_does() -> None:
    config = JobConfig(
        ray_namespace="of-the-job", runtime_env={"env_vars": {"A": "job", "B": "job"}, "pip": ["x"]}
    )
    alone = check(job_config=config)
    assert alone.namespace == "of-the-job"
    assert alone.runtime_env == {"env_vars": {"A": "job", "B": "job"}, "pip": ["x"]}
    both = check(job_config=config, namespace="mine", runtime_env={"env_vars": {"A": "mine"}})
    assert both.namespace == "mine"
    assert both.runtime_env["env_vars"] == {"A": "mine", "B": "job"}


def test_a_job_config_is_checked_like_arguments() -> None:
    with pytest.raises(TypeError, match="'A' is 1"):
        check(job_config=JobConfig(runtime_env={"env_vars": {"A": 1}}))


def test_who_joins_does_not_say_what_the_node_has() -> None:
    made = check("auto", num_cpus=2)
    with pytest.raises(ValueError, match="num_cpus must not be provided"):
        made.refuse_node_arguments("auto")
    check("auto", namespace="x").refuse_node_arguments("auto")


def test_no_cluster_is_started_by_a_finalizer_of_a_program_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads can no longer be started then: it would wait for its first one for ever."""
    monkeypatch.setattr(sys, "is_finalizing", lambda: True)
    with pytest.raises(RuntimeError, match="the program ends"):
        backend.current()
    assert not backend.is_connected()
