"""● Who bears which name in which namespace, and what to tell somebody who asked for a name nobody bears."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from beamlet.base.ids import ActorId, short

#: A hint is read by a person: at most so many names in it.
MOST_SUGGESTIONS = 5
#: Looking for near names takes time that all others of the cluster wait for: so many hints in a second, so
#: many names compared for one, and only such as a person may have mistyped.
HINTS_PER_S = 10
MOST_COMPARED = 100
LONGEST_COMPARED = 100


class ActorNames:
    """A name is taken from an actor's creation until it ends or begins to leave."""

    def __init__(self) -> None:
        self._spaces: dict[str, dict[str, ActorId]] = {}
        #: Hints given since ``_hints_since``.
        self._hints = 0
        self._hints_since = float("-inf")

    def take(self, namespace: str, name: str, actor_id: ActorId) -> None:
        holder = self._spaces.setdefault(namespace, {}).setdefault(name, actor_id)
        assert holder == actor_id, f"{name!r} in {namespace!r} is held by {short(holder)}"

    def free(self, namespace: str, name: str, actor_id: ActorId) -> None:
        """Nothing happens if somebody else bears the name by now."""
        names = self._spaces.get(namespace, {})
        if names.get(name) == actor_id:
            del names[name]
            if not names:
                del self._spaces[namespace]

    def holder(self, namespace: str, name: str) -> ActorId | None:
        return self._spaces.get(namespace, {}).get(name)

    def listing(self, namespace: str | None = None) -> list[tuple[str, str]]:
        """Sorted (name, namespace); of all namespaces for None."""
        spaces = self._spaces if namespace is None else {namespace: self._spaces.get(namespace, {})}
        return sorted((name, space) for space, names in spaces.items() for name in names)

    def items(self) -> list[tuple[str, str, ActorId]]:
        return [
            (space, name, holder) for space, names in self._spaces.items() for name, holder in names.items()
        ]

    def hint(self, namespace: str, name: str, now: float) -> list[str]:
        """Sentences that may help to find ``name``: near names, other namespaces, what there is.

        None for who asks so often that nobody can be reading them.
        """
        if now >= self._hints_since + 1.0:
            self._hints, self._hints_since = 0, now
        self._hints += 1
        return self._sentences(namespace, name) if self._hints <= HINTS_PER_S else []

    def _sentences(self, namespace: str, name: str) -> list[str]:
        here = self._spaces.get(namespace, {})
        sentences = []
        if elsewhere := sorted(space for space, names in self._spaces.items() if name in names):
            calls = _few([f"get_actor({name!r}, namespace={space!r})" for space in elsewhere])
            sentences.append(f"An actor of that name lives in another namespace: {calls}.")
        if near := _near(name, here):
            sentences.append(f"Did you mean {' or '.join(map(repr, near))}?")
        elif here:
            sentences.append(f"Named actors in namespace {namespace!r}: {_few(map(repr, sorted(here)))}.")
        else:
            sentences.append(f"No named actor lives in namespace {namespace!r}.")
        return sentences


def _near(name: str, names: Iterable[str]) -> list[str]:
    import difflib

    if len(name) > LONGEST_COMPARED:
        return []
    comparable = (each for each in names if len(each) <= LONGEST_COMPARED)
    compared = list(islice(comparable, MOST_COMPARED))
    return difflib.get_close_matches(name, compared, n=MOST_SUGGESTIONS, cutoff=0.6)


def _few(items: Iterable[str]) -> str:
    texts = list(items)
    more = f" and {len(texts) - MOST_SUGGESTIONS} more" if len(texts) > MOST_SUGGESTIONS else ""
    return ", ".join(texts[:MOST_SUGGESTIONS]) + more
