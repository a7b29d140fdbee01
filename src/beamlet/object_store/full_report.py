"""The words of a refused creation: what was asked, what fills the store, where it came from, what to do.

Formatting only; the numbers are the lifecycle's.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from beamlet.base.ids import worker_of
from beamlet.object_store.admission import Obstacle, Waiting
from beamlet.object_store.lifecycle import Holder, Usage
from beamlet.object_store.outcomes import CreateRequest

_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


class Kept(Struct, frozen=True):
    """What of the store is kept for a process that was cut off, or has left, but may live."""

    size: int
    who: str

    def __str__(self) -> str:
        return (
            f"{human_bytes(self.size)} are kept for {self.who}: it, or a process forked from it, lives on "
            "and may use them. They are free when that has ended"
        )


def human_bytes(count: int) -> str:
    """``1536`` → ``1.5 KiB``."""
    for unit, name in _UNITS:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} B"


def too_large(request: CreateRequest, capacity_bytes: int) -> str:
    """For a value that no amount of waiting would fit."""
    return (
        f"{_asked(request)} is larger than the whole object store ({human_bytes(capacity_bytes)}). "
        f"Make the store larger with init(object_store_memory=…), or split the value into pieces."
    )


def store_full(
    waiting: Waiting,
    now: float,
    usage: Usage,
    biggest: Sequence[Holder],
    queued: int,
    kept: Sequence[Kept] = (),
) -> str:
    """For a value that waited for room in vain; ``queued`` counts everyone waiting, this one included."""
    lines = [f"{_asked(waiting.request)} found no place in {now - waiting.since:.1f} s."]
    if waiting.obstacle is Obstacle.SAME_ID:
        lines.append(f"What kept it out: {Obstacle.SAME_ID.value}.")
    lines.append(_totals(usage, queued))
    lines += [f"{each}." for each in kept]
    if biggest:
        lines.append("The biggest objects in it:")
        lines += [f"  {_holder_line(holder)}" for holder in biggest]
    lines.append(
        "An object stays while any reference to it lives (a variable, a list of results, an actor's "
        "attribute), and its bytes while any array read from it does. Drop those that are no longer needed, "
        "hold fewer results at once (wait() for some before starting more), or make the store larger with "
        "init(object_store_memory=…)."
    )
    return "\n".join(lines)


def _asked(request: CreateRequest) -> str:
    place = f", {_made(request.call_site)}" if request.call_site else ""
    return f"Object {request.object_id.hex()} of {human_bytes(request.size)}{place},"


def _totals(usage: Usage, queued: int) -> str:
    text = (
        f"The object store has {human_bytes(usage.capacity_bytes)}: "
        f"{human_bytes(usage.used_bytes)} in {usage.object_count} objects, "
        f"{human_bytes(usage.free_bytes)} free, {human_bytes(usage.largest_free_bytes)} of it in one piece"
    )
    parts = [
        (usage.creating_bytes, "being written"),
        (usage.pinned_bytes, "being read"),
        (usage.deleted_bytes, "deleted but still in use"),
        (usage.slab_bytes, "leased to processes for arguments and results of calls"),
    ]
    text += "".join(f"; {human_bytes(count)} {what}" for count, what in parts if count)
    others = "1 other creation waits too" if queued == 2 else f"{queued - 1} other creations wait too"
    return f"{text}. {others}." if queued > 1 else f"{text}."


def _holder_line(holder: Holder) -> str:
    facts = [f"{human_bytes(holder.size):>10}  {holder.object_id.hex()}", holder.state.value]
    if holder.pin_count:
        facts.append(f"read by {holder.pin_count} {'holder' if holder.pin_count == 1 else 'holders'}")
    facts.append(f"{holder.age_s:.0f} s old")
    if holder.owner:
        facts.append(f"owner {worker_of(holder.owner)[:4].hex()}")
    facts.append(_made(holder.call_site))
    return ", ".join(facts)


def _made(place: str) -> str:
    """``place``: of user code, or the result of which task it is."""
    return place if place.startswith("result of ") else f"created at {place or 'an unknown place'}"
