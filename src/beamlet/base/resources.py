"""Amounts of logical resources in exact fixed point: 1 CPU is 10 000 units.

Fractions such as 0.1 add up without error, which floats would not.  A request or a supply is a plain
``dict[str, int]``; zero entries are never stored.
"""

from __future__ import annotations

from collections.abc import Mapping

UNIT = 10_000

Amounts = dict[str, int]

CPU = "CPU"
GPU = "GPU"
MEMORY = "memory"
OBJECT_STORE_MEMORY = "object_store_memory"


def from_floats(amounts: Mapping[str, float]) -> Amounts:
    """{'CPU': 0.5} → {'CPU': 5000}; zeros are dropped."""
    return {name: units for name, value in amounts.items() if (units := round(value * UNIT))}


def to_floats(amounts: Mapping[str, int]) -> dict[str, float]:
    return {name: units / UNIT for name, units in amounts.items() if units}


def fits(request: Mapping[str, int], supply: Mapping[str, int]) -> bool:
    return all(supply.get(name, 0) >= units for name, units in request.items())


def lacking(request: Mapping[str, int], supply: Mapping[str, int]) -> dict[str, int]:
    """What of ``request`` exceeds ``supply``, and by how much."""
    return {n: units - supply.get(n, 0) for n, units in request.items() if supply.get(n, 0) < units}


def add_into(target: Amounts, amounts: Mapping[str, int]) -> None:
    for name, units in amounts.items():
        target[name] = target.get(name, 0) + units


def subtract_into(target: Amounts, amounts: Mapping[str, int]) -> None:
    """``target`` may go below zero: a worker that wakes from a blocked ``get`` takes its CPU back at once."""
    for name, units in amounts.items():
        target[name] = target.get(name, 0) - units


def show(amounts: Mapping[str, int]) -> str:
    """{'CPU': 20000} → "{'CPU': 2}", the way users write it."""
    inner = ", ".join(f"{name!r}: {units / UNIT:g}" for name, units in sorted(amounts.items()))
    return "{" + inner + "}"
