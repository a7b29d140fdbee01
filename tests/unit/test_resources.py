"""Amounts in fixed point: exact where floats are not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beamlet.base.resources import (
    UNIT,
    add_into,
    fits,
    from_floats,
    lacking,
    show,
    subtract_into,
    to_floats,
)

AMOUNTS = st.dictionaries(st.sampled_from(["CPU", "GPU", "x"]), st.integers(1, 5 * UNIT))


def test_tenths_add_up() -> None:
    total: dict[str, int] = {}
    for _ in range(10):
        add_into(total, from_floats({"CPU": 0.1}))
    assert to_floats(total) == {"CPU": 1.0}


def test_zeros_are_dropped_both_ways() -> None:
    assert from_floats({"CPU": 0, "GPU": 0.00001, "x": 1}) == {"x": UNIT}
    assert to_floats({"CPU": 0, "x": 5000}) == {"x": 0.5}


@given(AMOUNTS, AMOUNTS)
def test_what_fits_lacks_nothing(request: dict[str, int], supply: dict[str, int]) -> None:
    assert fits(request, supply) == (not lacking(request, supply))
    enough = dict(supply)
    add_into(enough, lacking(request, supply))
    assert fits(request, enough)


@given(AMOUNTS, AMOUNTS)
def test_what_is_taken_can_be_given_back(target: dict[str, int], amounts: dict[str, int]) -> None:
    changed = dict(target)
    subtract_into(changed, amounts)
    add_into(changed, amounts)
    assert to_floats(changed) == to_floats(target)


def test_amounts_are_shown_as_users_write_them() -> None:
    assert show(from_floats({"GPU": 0.25, "CPU": 2})) == "{'CPU': 2, 'GPU': 0.25}"
