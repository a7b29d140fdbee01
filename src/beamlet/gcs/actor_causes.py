"""● How the end or restart of an actor is told to a person: which actor, made where, ended by whom, how."""

from __future__ import annotations

from typing import NamedTuple

from beamlet.base.death import DeathCertificate
from beamlet.base.ids import JobId
from beamlet.protocol.gcs import ActorSpec


class Cause(NamedTuple):
    """Why an actor ends or is restarted."""

    text: str
    #: It was asked for: nobody need be warned.
    intended: bool
    certificate: DeathCertificate | None = None
    #: Pickled error that the constructor raised.
    init_error: bytes = b""


def who(spec: ActorSpec) -> str:
    named = f" named {spec.name!r} in namespace {spec.namespace!r}" if spec.name else ""
    created = f", created at {spec.call_site}" if spec.call_site else ""
    return f"actor {spec.class_name}{named} (id {spec.actor_id.hex()}{created})"


def crashed(spec: ActorSpec, restarts: int, how: str) -> Cause:
    """It died, nobody asked for it, and no restart is left."""
    if spec.max_restarts:
        why_final = f"is not restarted again, after {restarts} of max_restarts={spec.max_restarts} restarts"
    else:
        why_final = "is not restarted, because max_restarts=0 (raise it to have crashed actors restarted)"
    return Cause(f"{who(spec)} died and {why_final}: {how}", False)


def restarting(spec: ActorSpec, restarts: int, how: str, pause_s: float) -> str:
    """``restarts``: how many there have been, with this one."""
    allowed = "any number" if spec.max_restarts < 0 else str(spec.max_restarts)
    when = f" in {pause_s:.1f} s, as it keeps dying soon after its start" if pause_s else ""
    return f"{who(spec)} is being restarted{when} ({restarts} of {allowed}): {how}"


def killed(spec: ActorSpec, killer: str) -> Cause:
    return Cause(f"{who(spec)} was killed: kill() was called by {killer}", True)


def left(spec: ActorSpec, how: str) -> Cause:
    return Cause(f"{who(spec)} left on purpose (exit_actor() or an orderly exit of its process): {how}", True)


def out_of_scope(spec: ActorSpec) -> Cause:
    advice = "Keep a handle for as long as it is needed, or create it with lifetime='detached'"
    return Cause(f"{who(spec)} ended because no handle to it was left. {advice}", True)


def owner_gone(spec: ActorSpec, owner: str, intended: bool, how: str) -> Cause:
    rule = "An actor ends with the process that created it, unless its lifetime is 'detached'"
    return Cause(f"{who(spec)} ended because its owner, {owner}, is gone. {rule}. The owner: {how}", intended)


def creator_gone(spec: ActorSpec, owner: str, intended: bool, how: str) -> Cause:
    """Of a detached actor: it alone could have said what the constructor is to be given."""
    rule = (
        "The constructor's arguments were not there yet, and nobody else knows them. Let the process that "
        "creates a detached actor live until the arguments are computed: get() a result of the actor"
    )
    return Cause(
        f"{who(spec)} was never started because its creator, {owner}, is gone. {rule}. The creator: {how}",
        intended,
    )


def job_ended(spec: ActorSpec, job_id: JobId) -> Cause:
    rule = "Only actors with lifetime='detached' outlive their driver"
    return Cause(f"{who(spec)} ended with job {job_id.hex()}. {rule}", True)


def family_ended(spec: ActorSpec, job_id: JobId) -> Cause:
    rule = "What works for detached actors ends with the last of them, when the driver is gone"
    return Cause(f"{who(spec)} ended with the last detached actor of job {job_id.hex()}. {rule}", True)


def constructor_raised(spec: ActorSpec, error: bytes) -> Cause:
    return Cause(f"{who(spec)} could not be created: its constructor raised", False, None, error)


def arguments_failed(spec: ActorSpec, error: bytes) -> Cause:
    return Cause(f"{who(spec)} could not be created: an argument of it failed", False, None, error)


def no_room_ever(spec: ActorSpec, reason: str) -> Cause:
    return Cause(f"{who(spec)} can never be placed: {reason}", False)


def still_restarting(spec: ActorSpec, reason: str) -> str:
    return f"{who(spec)} is being restarted, as soon as there is a process for it: {reason}"


def no_process(spec: ActorSpec, reason: str) -> Cause:
    return Cause(f"{who(spec)} could not be started: {reason}", False)
