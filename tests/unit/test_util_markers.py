"""util without a cluster: annotations, log_once, strategies, serializability, test tools, module paths."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
from typing import Any

import pytest

import beamlet
from beamlet._common.test_utils import async_wait_for_condition, wait_for_condition, wait_for_pid_to_exit
from beamlet.api.public_ids import NodeID
from beamlet.util import debug
from beamlet.util.annotations import (
    AnnotationType,
    Deprecated,
    DeveloperAPI,
    PublicAPI,
    RayDeprecationWarning,
)
from beamlet.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
)

NODE = "ab" * 28


def test_markers_mark_bare_and_with_arguments() -> None:
    @PublicAPI
    def public() -> int:
        return 1

    @PublicAPI(stability="alpha", api_group="Core")
    class Alpha:
        pass

    @DeveloperAPI
    def developer() -> None:
        pass

    assert public() == 1
    assert public._annotated_type is AnnotationType.PUBLIC_API
    assert (Alpha._annotated, Alpha._annotated_api_group) == ("Alpha", "Core")
    assert developer._annotated_type is AnnotationType.DEVELOPER_API


def test_markers_refuse() -> None:
    with pytest.raises(ValueError, match="'gamma'"):
        PublicAPI(stability="gamma")
    with pytest.raises(TypeError, match="keyword arguments only"):
        PublicAPI("stable")


def test_what_is_deprecated_warns_at_its_caller_if_asked_to() -> None:
    @Deprecated(message="Use g.", warning=True)
    def old(x: int) -> int:
        return x

    @Deprecated(warning=True)
    class Old:
        def __init__(self, x: int) -> None:
            self.x = x

    with pytest.warns(RayDeprecationWarning, match=r"old is deprecated\. Use g\.") as seen:
        assert old(3) == 3
    assert seen[0].filename == __file__
    with pytest.warns(RayDeprecationWarning, match="Old is deprecated"):
        assert Old(4).x == 4

    @Deprecated
    def quiet() -> int:
        return 5

    assert quiet() == 5


@pytest.fixture
def fresh_debug(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(debug, "_said", set())
    monkeypatch.setattr(debug, "_disabled", False)
    monkeypatch.setattr(debug, "_periodic", False)
    monkeypatch.setattr(debug, "_last_said", 0.0)
    return monkeypatch


@pytest.mark.usefixtures("fresh_debug")
def test_log_once_is_true_once_per_key() -> None:
    assert [debug.log_once("a"), debug.log_once("a"), debug.log_once("b")] == [True, False, True]
    debug.reset_log_once("a")
    assert [debug.log_once("a"), debug.log_once("b")] == [True, False]
    debug.disable_log_once_globally()
    assert not debug.log_once("c")


def test_log_once_forgets_after_a_minute_if_asked_to(fresh_debug: Any) -> None:
    now = 1000.0
    fresh_debug.setattr(debug.time, "monotonic", lambda: now)
    assert debug.log_once("a")
    now += 61
    assert not debug.log_once("a")
    debug.enable_periodic_logging()
    assert debug.log_once("a")
    assert not debug.log_once("a")


def test_node_affinity_takes_hex_and_ids() -> None:
    for given in (NODE, NodeID.from_hex(NODE)):
        strategy = NodeAffinitySchedulingStrategy(given, soft=True, _spill_on_unavailable=True)
        assert (strategy.node_id, strategy.soft) == (NODE, True)


@pytest.mark.parametrize("wrong", ["", "abc", "zz" * 28, "ff" * 28, 5, None])
def test_node_affinity_refuses_what_is_no_node(wrong: Any) -> None:
    with pytest.raises(ValueError, match="not a node id"):
        NodeAffinitySchedulingStrategy(wrong, soft=False)


def test_node_affinity_refuses_contradictions() -> None:
    with pytest.raises(ValueError, match="requires soft=True"):
        NodeAffinitySchedulingStrategy(NODE, soft=False, _spill_on_unavailable=True)
    with pytest.raises(ValueError, match="requires soft=False"):
        NodeAffinitySchedulingStrategy(NODE, soft=True, _fail_on_unavailable=True)


def test_label_conditions() -> None:
    strategy = NodeLabelSchedulingStrategy(
        {"a": In("x"), "b": Exists()}, soft={"c": NotIn("y"), "d": DoesNotExist()}
    )
    assert strategy.hard["a"].values == ["x"]
    for wrong in (lambda: In(), lambda: NotIn(1), lambda: NodeLabelSchedulingStrategy({})):  # type: ignore[arg-type]
        with pytest.raises(ValueError):
            wrong()
    with pytest.raises(ValueError, match="must be In, NotIn"):
        NodeLabelSchedulingStrategy({"a": "x"})


def test_waiting_in_vain_says_what_was_raised() -> None:
    def not_yet() -> bool:
        raise KeyError("key")

    with pytest.raises(RuntimeError, match=r"not_yet was not met within 0 s\. It raised KeyError"):
        wait_for_condition(not_yet, timeout=0)
    with pytest.raises(KeyError):
        wait_for_condition(not_yet, timeout=0, raise_exceptions=True)
    with pytest.raises(RuntimeError):
        asyncio.run(async_wait_for_condition(not_yet, timeout=0))


def test_coroutines_as_conditions() -> None:
    async def ready(value: bool) -> bool:
        return value

    asyncio.run(async_wait_for_condition(ready, value=True))
    with pytest.raises(RuntimeError, match="ready was not met"):
        asyncio.run(async_wait_for_condition(ready, timeout=0, value=False))


def test_waiting_for_a_process() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with pytest.raises(RuntimeError, match=f"process_{process.pid}_is_gone"):
            wait_for_pid_to_exit(process.pid, timeout=0)
    finally:
        process.kill()
        process.communicate()
    wait_for_pid_to_exit(process.pid)


@pytest.mark.parametrize("name", beamlet._LAZY_MODULES)
def test_modules_are_bound_like_rays(name: str) -> None:
    module = getattr(beamlet, name)
    assert module is importlib.import_module(f"beamlet.{name}")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'beamlet' has no attribute 'utl'"):
        _ = beamlet.utl  # type: ignore[attr-defined]
