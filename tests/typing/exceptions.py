"""What type checkers make of our errors; checked by mypy --strict, never run."""

from __future__ import annotations

from typing import assert_type

from beamlet.base.death import DeathCertificate
from beamlet.exceptions import (
    ActorDiedError,
    CallSite,
    GetTimeoutError,
    ObjectReconstructionFailedError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)


def task_error(error: RayTaskError) -> None:
    assert_type(error.cause, BaseException)
    assert_type(error.function_name, str)
    assert_type(error.pid, int | None)
    assert_type(error.as_instanceof_cause(), RayTaskError)
    assert_type(error.called_from(CallSite("app.py", 3)), RayTaskError)


def deaths(crash: WorkerCrashedError, actor: ActorDiedError) -> None:
    assert_type(crash.certificate, DeathCertificate | None)
    assert_type(actor.certificate, DeathCertificate | None)
    assert_type(actor.actor_init_failed, bool)


def back_from_bytes(data: bytes) -> None:
    assert_type(RayError.from_bytes(data), RayError)
    assert_type(GetTimeoutError.from_bytes(data), GetTimeoutError)


def wrong_constructors() -> None:
    ObjectReconstructionFailedError()  # type: ignore[call-arg]
    CallSite(3, "app.py")  # type: ignore[arg-type]
