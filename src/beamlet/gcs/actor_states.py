"""● The states of an actor, and the one table that says which follows which.

What the states mean for its callers: calls are kept by the caller until ALIVE, sent while ALIVE, kept or
failed (max_task_retries) while RESTARTING, failed once DEAD.  Why an actor is restarted or ended is decided
in actors.py; this file only says what may happen at all.  docs/states/actor.md is generated from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum


class State(Enum):
    #: Known and, if it has a name, findable; its constructor's arguments are still being computed.
    DEPENDENCIES_UNREADY = "DEPENDENCIES_UNREADY"
    #: Waits for room, for a process, or for its constructor to return.
    PENDING_CREATION = "PENDING_CREATION"
    ALIVE = "ALIVE"
    #: As PENDING_CREATION, after the death of an earlier incarnation.
    RESTARTING = "RESTARTING"
    DEAD = "DEAD"


class Step(Enum):
    """What can happen to an actor; the value is what the diagram says."""

    READY = "arguments are there"
    STARTED = "constructor returned"
    RESTART = "process died, a restart is left"
    END = "killed, left, out of scope, owner or job gone, constructor raised, no restart left, no room ever"


TRANSITIONS: dict[tuple[State, Step], State] = {
    (State.DEPENDENCIES_UNREADY, Step.READY): State.PENDING_CREATION,
    (State.DEPENDENCIES_UNREADY, Step.END): State.DEAD,
    (State.PENDING_CREATION, Step.STARTED): State.ALIVE,
    (State.PENDING_CREATION, Step.RESTART): State.RESTARTING,
    (State.PENDING_CREATION, Step.END): State.DEAD,
    (State.ALIVE, Step.RESTART): State.RESTARTING,
    (State.ALIVE, Step.END): State.DEAD,
    (State.RESTARTING, Step.STARTED): State.ALIVE,
    (State.RESTARTING, Step.RESTART): State.RESTARTING,
    (State.RESTARTING, Step.END): State.DEAD,
}


class IllegalTransition(Exception):
    """A fault of ours, never of a user's: the tables no longer say what is true."""


def next_state(state: State, step: Step, who: str, story: Iterable[str]) -> State:
    """``story``: what happened to this actor lately, for the report if the step is impossible."""
    try:
        return TRANSITIONS[state, step]
    except KeyError:
        lines = "".join(f"\n  {line}" for line in story)
        raise IllegalTransition(
            f"{who} is {state.name}, where {step.name} ({step.value}) cannot happen; possible are "
            f"{[s.name for at, s in TRANSITIONS if at is state]}. Please report this. Its story:{lines}"
        ) from None


def document() -> str:
    """The text of docs/states/actor.md."""
    numbered = list(enumerate(TRANSITIONS.items(), 1))
    arrows = "\n".join(f"    {at.name} --> {to.name}: {n}" for n, ((at, _), to) in numbered)
    rows = "\n".join(f"| {n} | {at.name} | {step.value} | {to.name} |" for n, ((at, step), to) in numbered)
    return f"""# States of an actor

Generated from `src/beamlet/gcs/actor_states.py` by `python tests/unit/test_state_docs.py`; do not edit.

```mermaid
stateDiagram-v2
    [*] --> {State.DEPENDENCIES_UNREADY.name}: create
{arrows}
    {State.DEAD.name} --> [*]
```

| | from | what happens | to |
|---|---|---|---|
{rows}

`DEAD` is final: an actor that has ended never comes back, and its name is free from that moment.
Each start has its own incarnation number, and a restart takes a larger one; whatever is said about an
earlier incarnation no longer concerns the actor.
"""
