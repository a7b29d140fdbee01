"""RuntimeEnv, JobConfig and LoggingConfig: what they keep, leave out and refuse."""

from __future__ import annotations

import doctest
import os
import pickle
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

import beamlet as ray
from beamlet import internal
from beamlet.api import logging_config, runtime_env
from beamlet.api.head_start import find_session
from beamlet.api.init_options import checked
from beamlet.api.job_config import JobConfig
from beamlet.api.logging_config import LoggingConfig
from beamlet.api.public_ids import ActorID, JobID
from beamlet.api.runtime_env import RuntimeEnv, RuntimeEnvConfig, check_fields, env_vars_of
from beamlet.base.environment import from_wire, to_wire
from beamlet.util.scheduling_strategies import NodeAffinitySchedulingStrategy, NodeLabelSchedulingStrategy
from support.wrong_values import ZOO


@pytest.mark.parametrize(
    ("env_vars", "said"),
    [
        ({"A": 1}, "'A' is 1, an int. Write '1'"),
        ({1: "1"}, "the name 1 is an int"),
        ({"A": None}, "'A' is None, None"),
        ([("A", "1")], "is a list"),
    ],
)
def test_env_vars_map_str_to_str(env_vars: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        RuntimeEnv(env_vars=env_vars)


def test_what_is_empty_is_left_out() -> None:
    assert RuntimeEnv(env_vars={}, pip=[], conda=None) == {}


def test_it_is_a_dict_that_serializes_alike_whatever_the_order() -> None:
    one = RuntimeEnv(env_vars={"B": "1", "A": "2"})
    two = RuntimeEnv(env_vars={"A": "2", "B": "1"})
    assert one.serialize() == two.serialize() == '{"env_vars": {"A": "2", "B": "1"}}'
    assert RuntimeEnv.deserialize(one.serialize()) == one
    assert isinstance(one, dict)


def test_it_keeps_its_type_through_pickle() -> None:
    env = pickle.loads(pickle.dumps(RuntimeEnv(env_vars={"A": "1"}, pip=["x"])))
    assert type(env) is RuntimeEnv
    assert env == {"env_vars": {"A": "1"}, "pip": ["x"]}


def test_env_vars_are_a_copy() -> None:
    env = RuntimeEnv(env_vars={"A": "1"})
    env.env_vars()["A"] = "2"
    assert env.env_vars() == {"A": "1"}


def test_set_checks_and_removes() -> None:
    env = RuntimeEnv()
    with pytest.raises(TypeError):
        env.set("env_vars", {"A": 1})
    env.set("env_vars", {"A": "1"})
    env.set("env_vars", None)
    assert env == {}


def test_fields_without_effect_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    env = RuntimeEnv(env_vars={"A": "1"}, conda="base", my_plugin=1)
    assert env_vars_of(env, "task f") == {"A": "1"}
    assert "runtime_env of task f: conda has no effect" in caplog.text
    caplog.clear()
    assert env_vars_of(env, "task g") == {"A": "1"}
    assert not caplog.text


def test_the_config_of_making_environments() -> None:
    assert RuntimeEnvConfig(setup_timeout_seconds=-1)["setup_timeout_seconds"] == -1
    with pytest.raises(ValueError, match="greater than zero or -1"):
        RuntimeEnvConfig(setup_timeout_seconds=0)
    with pytest.raises(TypeError, match="eager_install must be a bool"):
        RuntimeEnvConfig(eager_install="yes")  # type: ignore[arg-type]


def test_job_config_refuses() -> None:
    with pytest.raises(ValueError, match="'detached', 'non_detached', not 'for ever'"):
        JobConfig(default_actor_lifetime="for ever")
    with pytest.raises(TypeError, match="list or tuple"):
        JobConfig(code_search_path="lib")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="'A' is 1"):
        JobConfig().set_runtime_env({"env_vars": {"A": 1}}, validate=True)


def test_job_config_from_json() -> None:
    config = JobConfig.from_json(
        {"metadata": {"a": "b"}, "runtime_env": {"env_vars": {"A": "1"}}, "namespace": "n"}
    )
    config.set_metadata("c", "d")
    assert config.metadata == {"a": "b", "c": "d"}
    assert config.runtime_env == {"env_vars": {"A": "1"}}
    assert config.ray_namespace == "n"


def test_logging_config_refuses() -> None:
    with pytest.raises(ValueError, match="TEXT, JSON, not 'XML'"):
        LoggingConfig(encoding="XML")
    with pytest.raises(ValueError, match="'colour' is not an attribute"):
        LoggingConfig(additional_log_standard_attrs=["colour"])


def test_logging_config_round_trips_and_ignores_the_unknown() -> None:
    config = LoggingConfig("JSON", "DEBUG", ["process"])
    assert LoggingConfig.from_dict({**config.to_dict(), "newer": 1}) == config
    assert JobConfig().ensure_logging_config(config.to_dict()) == config


@pytest.mark.parametrize("module", [runtime_env, logging_config])
def test_the_examples_in_the_docs(module: Any) -> None:
    failed, tried = doctest.testmod(module)
    assert tried
    assert not failed


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pip": 5}, "has 'pip': 5, which must be list or tuple or dict or str"),
        ({"working_dir": ["x"]}, "which must be str or PurePath"),
        ({3: "x"}, "must have str as its keys, but has 3"),
        ({"env_vars": {"A": 1}}, "an invalid 'env_vars': it must map str to str: 'A' is 1"),
    ],
)
def test_fields_that_cannot_be_are_refused(given: Any, said: str) -> None:
    with pytest.raises(TypeError, match="must") as caught:
        check_fields(given)
    assert said in str(caught.value)


def test_what_has_no_effect_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_env, "_told", set())
    for _ in range(2):
        env_vars_of({"env_var": {"A": "1"}, "pip": ["x"], "conda": None, "config": {}}, "task f")
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("runtime_env of task f: pip has no effect in this release")
    assert second.endswith("there is no field 'env_var', and it is ignored; did you mean 'env_vars'?")


@pytest.mark.parametrize("raw", [b"plain", b"", b"\xff", b"caf\xe9=\xc3\xa9", bytes(range(1, 256))])
def test_variables_travel_whatever_bytes_they_are(raw: bytes) -> None:
    variables = {"A" + os.fsdecode(raw).replace("=", ""): os.fsdecode(raw)}
    carried = env_vars_of(RuntimeEnv(env_vars=variables), "this test")
    assert (
        from_wire(msgspec.msgpack.decode(msgspec.msgpack.encode(carried), type=dict[str, str])) == variables
    )


def test_text_that_spells_bytes_out_is_not_confused_with_them() -> None:
    assert from_wire(to_wire({"A": "\xff", "B": "\udcff"})) == {"A": "\xff", "B": "\udcff"}
    with pytest.raises(ValueError, match=r"'\\ud800', a lone surrogate that stands for no byte"):
        RuntimeEnv(env_vars={"A": "x\ud800"})


NO_REPR = ZOO["no repr"]


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: LoggingConfig(encoding=np.array([1, 2])), ValueError, r"encoding must be one of TEXT, JSON"),
        (lambda: LoggingConfig(encoding=NO_REPR), ValueError, r"not <a Unshowable whose __repr__ raises"),
        (lambda: LoggingConfig(log_level=NO_REPR), TypeError, r"log_level must be a str, such as 'INFO'"),
        (
            lambda: LoggingConfig(additional_log_standard_attrs="name"),
            TypeError,
            r"must be a list, not a",
        ),
        (lambda: LoggingConfig(additional_log_standard_attrs=3), TypeError, r"must be a list, not an int: 3"),
        (lambda: JobConfig(runtime_env="x"), TypeError, r"runtime_env must be a dict, not a str: 'x'"),
        (lambda: JobConfig(metadata=np.array([1, 2])), TypeError, r"metadata must be a dict, not a ndarray"),
        (lambda: JobConfig(ray_namespace=5), TypeError, r"ray_namespace must be a str, not an int: 5"),
        (lambda: JobConfig(default_actor_lifetime=np.array([1, 2])), ValueError, r"one of 'detached'"),
        (lambda: NodeLabelSchedulingStrategy(3), TypeError, r"conditions must be a dict .*, not 3"),
        (lambda: NodeAffinitySchedulingStrategy("ab" * 28, soft=None), TypeError, r"soft must be a bool"),
        (lambda: NodeAffinitySchedulingStrategy("x" * 9000, soft=True), ValueError, r"x… is not a node id"),
        (lambda: ActorID(NO_REPR), TypeError, r"ActorID is made from bytes, not from a Unshowable: <a Unsh"),
        (lambda: ActorID.from_hex(3), TypeError, r"ActorID: 3 is not a string of hex digits"),
        (lambda: ActorID.from_hex("y" * 9000), ValueError, r"ActorID: 'yyyy.*… is not a string of hex"),
        (
            lambda: JobID.from_int("5"),
            TypeError,
            r"JobID.from_int\('5'\): the number must be an int",
        ),
        (lambda: JobID.from_int(-1), ValueError, r"JobID.from_int\(-1\): the number must be at least 0"),
        (lambda: JobID.from_int(2**32), ValueError, r"the number must be at most 4,294,967,295"),
        (lambda: ray.remote(NO_REPR), TypeError, r"not to a Unshowable: <a Unshowable whose"),
        (lambda: internal.free(3), TypeError, r"free wants an ObjectRef or a list of them, got an int: 3"),
    ],
)
def test_what_cannot_be_is_said_with_its_name_and_value(
    make: Callable[[], object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        make()
    assert len(str(caught.value)) < 1000


def test_values_of_numpy_are_taken_for_what_they_are() -> None:
    assert RuntimeEnv(pip=np.array([1, 2]))["pip"].shape == (2,)
    assert JobID.from_int(np.int64(5)).int() == 5
    given = checked(
        None, {"num_cpus": np.int64(3), "log_to_driver": np.False_, "logging_level": np.int64(20)}, {}
    )
    assert (given.num_cpus, given.log_to_driver, given.logging_level) == (3, False, 20)
    with pytest.raises(TypeError, match="num_cpus must be a number, not a bool"):
        checked(None, {"num_cpus": np.True_}, {})


def test_the_environment_of_a_job_config_is_checked_before_it_is_merged() -> None:
    with pytest.raises(TypeError, match=r"init\(runtime_env=.*an invalid 'env_vars': it must map str to str"):
        checked(None, {"job_config": JobConfig(runtime_env={"env_vars": 5})}, {})
    with pytest.raises(ValueError, match=r"'memory': use _memory instead"):
        checked(None, {"resources": {"memory": 1}}, {})


def test_an_address_that_is_too_long_for_a_path_names_no_session() -> None:
    with pytest.raises(ConnectionError, match=r"'xxx.*… does not name a running session"):
        find_session("x" * 100_000)
