"""Which errors are run again after, decided from names alone."""

from __future__ import annotations

import pytest

from beamlet.base.class_names import RetryRule, class_names, is_worth_retrying, retry_rule
from beamlet.core_worker.executing.runner import retried_for
from beamlet.exceptions import RayTaskError, UserCodeException


class Flaky(ConnectionError):
    """A user's error."""


def test_names_lead_from_the_class_to_object() -> None:
    assert class_names(Flaky) == [
        f"{__name__}.Flaky",
        *("builtins.ConnectionError", "builtins.OSError", "builtins.Exception"),
        *("builtins.BaseException", "builtins.object"),
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (False, False),
        (True, True),
        ([OSError], True),
        ([ValueError], False),
        ([ValueError, Flaky], True),
        ([], False),
    ],
)
def test_a_rule_covers_what_derives_from_its_classes(given: bool | list[type], expected: bool) -> None:
    rule: RetryRule = retry_rule(given)
    assert is_worth_retrying(rule, class_names(Flaky)) is expected


def test_an_error_out_of_a_nested_get_counts_as_its_cause() -> None:
    nested = RayTaskError("f", "text", Flaky("x"), pid=1, ip="").as_instanceof_cause()
    assert type(retried_for(nested)) is Flaky


def test_a_librarys_wrapper_counts_as_what_it_wraps() -> None:
    error = UserCodeException()
    error.__cause__ = Flaky("x")
    assert type(retried_for(error)) is Flaky
    assert type(retried_for(UserCodeException())) is UserCodeException


def test_a_class_of_any_module_can_be_named_in_a_message() -> None:
    odd = type("Odd", (Flaky,), {"__module__": "caf\udce9"})
    assert class_names(odd)[0].encode() == rb"caf\udce9.Odd"
    assert is_worth_retrying(retry_rule([odd]), class_names(odd))
