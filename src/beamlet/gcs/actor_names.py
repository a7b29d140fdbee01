"""● Who bears which name in which namespace, and what to tell somebody who asked for a name nobody bears."""

from __future__ import annotations

from collections.abc import Iterable

from beamlet.base.ids import ActorId, short

#: A hint is read by a person: at most so many names in it.
MOST_SUGGESTIONS = 5


class ActorNames:
    """A name is taken from an actor's creation until it ends or begins to leave."""

    def __init__(self) -> None:
        self._spaces: dict[str, dict[str, ActorId]] = {}

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

    def hint(self, namespace: str, name: str) -> list[str]:
        """Sentences that may help to find ``name``: near names, other namespaces, what there is."""
        here = self._spaces.get(namespace, {})
        sentences = []
        if elsewhere := sorted(space for space, names in self._spaces.items() if name in names):
            calls = _few([f"get_actor({name!r}, namespace={space!r})" for space in elsewhere])
            sentences.append(f"An actor of that name lives in another namespace: {calls}.")
        import difflib

        if near := difflib.get_close_matches(name, here, n=MOST_SUGGESTIONS, cutoff=0.6):
            sentences.append(f"Did you mean {' or '.join(map(repr, near))}?")
        elif here:
            sentences.append(f"Named actors in namespace {namespace!r}: {_few(map(repr, sorted(here)))}.")
        else:
            sentences.append(f"No named actor lives in namespace {namespace!r}.")
        return sentences


def _few(items: Iterable[str]) -> str:
    texts = list(items)
    more = f" and {len(texts) - MOST_SUGGESTIONS} more" if len(texts) > MOST_SUGGESTIONS else ""
    return ", ".join(texts[:MOST_SUGGESTIONS]) + more
