"""A class that was decorated in its module is found there, so that a worker has one class and not two."""

from __future__ import annotations

import functools
import io
import pickle
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import cloudpickle
import pytest

import beamlet
from beamlet.serialization.decorated import Pickler

SOURCE = """
import beamlet

class Base:
    def who(self):
        return "base"

@beamlet.remote
class Child(Base):
    count = 0
    def who(self):
        return "child of " + super().who()
    def cell(self):
        return __class__
    class Inner:
        pass

class Plain(Child.__ray_actor_class__):
    def who(self):
        return "plain " + super().who()

Renamed = beamlet.remote(Plain)
"""


@pytest.fixture
def module() -> Iterator[ModuleType]:
    made = ModuleType("a_module_with_actors")
    sys.modules[made.__name__] = made
    exec(SOURCE, vars(made))
    yield made
    del sys.modules[made.__name__]


def there_and_back(value: Any) -> Any:
    file = io.BytesIO()
    Pickler(file, 5).dump(value)
    return pickle.loads(file.getvalue())


def test_a_decorated_class_comes_back_as_itself(module: ModuleType) -> None:
    plain = module.Child.__ray_actor_class__
    assert there_and_back(plain) is plain
    assert there_and_back(plain()).who() == "child of base"
    assert there_and_back(plain().cell)() is plain


def test_others_are_found_as_ever(module: ModuleType) -> None:
    for cls in (module.Base, module.Plain, int, type(None), ModuleType):
        assert there_and_back(cls) is cls
    assert there_and_back(module.Plain()).who() == "plain child of base"


def test_a_class_in_a_decorated_class_is_found(module: ModuleType) -> None:
    assert there_and_back(module.Child.__ray_actor_class__.Inner) is module.Child.__ray_actor_class__.Inner


def test_what_the_module_does_not_have_travels_by_value(module: ModuleType) -> None:
    plain = module.Child.__ray_actor_class__
    del module.Child
    copy = there_and_back(plain)
    assert copy.__name__ == "Child"
    assert copy().who() == "child of base"


def test_modules_registered_by_value_stay_so(module: ModuleType) -> None:
    cloudpickle.register_pickle_by_value(module)
    try:
        file = io.BytesIO()
        Pickler(file, 5).dump(module.Child.__ray_actor_class__)
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert b"_plain_class" not in file.getvalue()


def test_an_instance_of_the_plain_class_is_one_of_the_actor_class(module: ModuleType) -> None:
    own = module.Child.__ray_actor_class__()
    assert isinstance(own, module.Child)
    assert not isinstance(module.Base(), module.Child)
    assert issubclass(module.Plain, module.Child)


@functools.lru_cache(maxsize=3)
def cached_in_a_module(x: int) -> int:
    return x + 1


def through(value: Any) -> Any:
    file = io.BytesIO()
    Pickler(file, 5).dump(value)
    return pickle.loads(file.getvalue())


def test_a_function_with_a_cache_that_no_name_finds_travels_with_an_empty_one() -> None:
    @functools.lru_cache(maxsize=7, typed=True)
    def local(x: int) -> int:
        return x + 1

    local(1)
    found = through(local)
    assert found is not local
    assert found(1) == 2
    assert found.cache_parameters() == {"maxsize": 7, "typed": True}
    assert found.cache_info().currsize == 1

    local.__module__ = "__main__"  # a name that finds another module in a worker
    local.__qualname__ = "local"
    assert through(local)(1) == 2


def test_a_class_with_a_cached_property() -> None:
    class Local:
        @functools.cached_property
        def seven(self) -> int:
            "Docs."
            return 7

    found = through(Local)
    assert (found().seven, found.seven.__doc__) == (7, "Docs.")


def test_one_that_its_module_holds_is_found_there() -> None:
    assert through(cached_in_a_module) is cached_in_a_module


def test_methods_with_a_cache() -> None:
    class Local:
        @functools.cache  # noqa: B019 — what users write
        def double(self, x: int) -> int:
            return 2 * x

    found = through(Local)()
    assert found.double(4) == found.double(4) == 8
    assert found.double.cache_info().hits == 1
    assert "double" in beamlet.remote(Local)._methods
