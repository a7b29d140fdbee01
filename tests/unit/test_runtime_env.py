"""RuntimeEnv, JobConfig and LoggingConfig: what they keep, leave out and refuse."""

from __future__ import annotations

import doctest
import os
import pickle
from typing import Any

import msgspec
import pytest

from beamlet.api import logging_config, runtime_env
from beamlet.api.job_config import JobConfig
from beamlet.api.logging_config import LoggingConfig
from beamlet.api.runtime_env import RuntimeEnv, RuntimeEnvConfig, check_fields, env_vars_of
from beamlet.base.environment import from_wire, to_wire


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
