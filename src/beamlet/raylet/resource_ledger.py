"""What a node has, who was given what: exact amounts, and indices for accelerators. ●

Amounts are fixed point (base/resources.py).  An indexed resource (GPU) is given out as shares of numbered
devices: whole devices first, then one share of a single device, never two halves of different ones.
A blocked worker gives back its CPUs and nothing else (a GPU still carries its memory); when it wakes it takes
them back at once, if need be below zero, and nobody new is served until that is made good.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from beamlet.base.resources import CPU, GPU, UNIT, Amounts, add_into, fits, subtract_into

#: (index of the device, units taken of it)
Share = tuple[int, int]


class Allocation(Struct, frozen=True):
    """What one lease was given. Goes back by exactly one ``give_back``."""

    amounts: Amounts
    shares: dict[str, tuple[Share, ...]] = {}

    def indices(self) -> dict[str, list[int]]:
        """{'GPU': [0, 1]}: what becomes CUDA_VISIBLE_DEVICES."""
        return {name: [index for index, _ in shares] for name, shares in self.shares.items()}

    def cpus(self) -> Amounts:
        return {CPU: self.amounts[CPU]} if CPU in self.amounts else {}

    def without_cpus(self) -> Amounts:
        return {name: units for name, units in self.amounts.items() if name != CPU}


class ResourceLedger:
    """The node's totals and what is left of them."""

    def __init__(self, total: Amounts, indexed: Iterable[str] = (GPU,)) -> None:
        self.total = dict(total)
        #: Shared with the cluster view, so it is changed in place only.
        self.available = dict(total)
        self._devices: dict[str, list[int]] = {
            name: _device_sizes(total[name]) for name in indexed if total.get(name)
        }

    def fits(self, request: Amounts) -> bool:
        if not fits(request, self.available):
            return False
        wanted = [(request[name], free) for name, free in self._devices.items() if name in request]
        return all(_shares_for(units, free) is not None for units, free in wanted)

    def take(self, request: Amounts) -> Allocation:
        """Give out ``request``; ``fits(request)`` must hold."""
        assert fits(request, self.available), f"took {request} of {self.available}"
        shares: dict[str, tuple[Share, ...]] = {}
        for name, free in self._devices.items():
            if name in request:
                found = _shares_for(request[name], free)
                assert found is not None, f"no devices for {request}: {free}"
                for index, units in found:
                    free[index] -= units
                shares[name] = found
        subtract_into(self.available, request)
        return Allocation(dict(request), shares)

    def give_back(self, allocation: Allocation, cpus_are_back: bool = False) -> None:
        """``cpus_are_back``: the lease is blocked, so its CPUs were returned already."""
        add_into(self.available, allocation.without_cpus() if cpus_are_back else allocation.amounts)
        for name, shares in allocation.shares.items():
            for index, units in shares:
                self._devices[name][index] += units

    def give_back_cpus(self, allocation: Allocation) -> None:
        add_into(self.available, allocation.cpus())

    def take_cpus_again(self, allocation: Allocation) -> None:
        subtract_into(self.available, allocation.cpus())

    def check_invariants(self, outstanding: Iterable[tuple[Allocation, bool]]) -> None:
        """``outstanding``: every allocation not given back, and whether its CPUs are (blocked)."""
        rebuilt = dict(self.total)
        devices = {name: _device_sizes(self.total[name]) for name in self._devices}
        for allocation, cpus_are_back in outstanding:
            subtract_into(rebuilt, allocation.without_cpus() if cpus_are_back else allocation.amounts)
            for name, shares in allocation.shares.items():
                for index, units in shares:
                    devices[name][index] -= units
        assert rebuilt == self.available, f"granted + free ≠ total: {rebuilt} ≠ {self.available}"
        assert devices == self._devices, f"devices disagree: {devices} ≠ {self._devices}"
        assert all(units >= 0 for free in devices.values() for units in free), devices
        below = {name: units for name, units in self.available.items() if units < 0 and name != CPU}
        assert not below, f"only CPUs may be overdrawn: {below}"


def _device_sizes(units: int) -> list[int]:
    """2.5 GPUs are two whole devices and a half one (a node may be given part of a device)."""
    whole, rest = divmod(units, UNIT)
    return [UNIT] * whole + ([rest] if rest else [])


def _shares_for(units: int, free: list[int]) -> tuple[Share, ...] | None:
    """Devices for ``units``: whole ones, lowest first; the rest from the fullest device that fits."""
    whole, rest = divmod(units, UNIT)
    taken = [index for index, left in enumerate(free) if left == UNIT][:whole]
    if len(taken) < whole:
        return None
    shares = [(index, UNIT) for index in taken]
    if rest:
        open_ones = [(left, index) for index, left in enumerate(free) if left >= rest and index not in taken]
        if not open_ones:
            return None
        shares.append((min(open_ones)[1], rest))
    return tuple(shares)
