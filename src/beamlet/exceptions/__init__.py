"""Every error that Beamlet raises on its own account, under the names Ray's users know.

    RayError
    ├─ RayTaskError                    the task's own code raised (also an instance of what it raised)
    ├─ TaskCancelledError   GetTimeoutError (TimeoutError)   UserCodeException   UnserializableException
    ├─ RayActorError ── ActorDiedError, ActorUnavailableError
    ├─ ActorAlreadyExistsError (ValueError)   ActorHandleNotFoundError (ValueError)
    ├─ PendingCallsLimitExceeded
    ├─ WorkerCrashedError   NodeDiedError   LocalRayletDiedError   OutOfMemoryError   OutOfDiskError
    ├─ ObjectStoreFullError   PlasmaObjectNotAvailable   OufOfBandObjectRefSerializationException
    ├─ ObjectLostError ── ObjectFetchTimedOutError, OwnerDiedError, ObjectReconstructionFailedError,
    │                     ObjectFreedError, ReferenceCountingAssertionError (AssertionError)
    ├─ TaskUnschedulableError   ActorUnschedulableError   TaskPlacementGroupRemoved
    ├─ ActorPlacementGroupRemoved
    ├─ InfeasibleError   DeadlockError   BlockingInAsyncError                    (Beamlet's own)
    ├─ ProcessMemoryError (MemoryError)                                          (Beamlet's own)
    ├─ RuntimeEnvSetupError   AuthenticationError   RpcError   CrossLanguageError
    ├─ AsyncioActorExit   ObjectRefStreamEndOfStreamError                        (control flow, not failures)
    └─ RaySystemError ── ClusterGoneError (Beamlet's own), RayDirectTransportError,
                         StreamingGeneratorReplayInconsistentError,
                         RayCgraphCapacityExceeded, RayChannelError ── RayChannelTimeoutError (TimeoutError)

    SessionRootError (RuntimeError)          what ``init()`` raises before there is a cluster (Beamlet's own)

Constructors and attributes are Ray 2.60's; names that Ray dropped since 1.x are aliases at the end.
What a process died of travels in ``certificate`` (``base/death.py``) and is part of the text.
"""

from __future__ import annotations

from typing import Final

from beamlet.base.error_type import ErrorType
from beamlet.base.session_root_error import SessionRootError
from beamlet.exceptions.actors import (
    ActorAlreadyExistsError,
    ActorClassInheritanceException,
    ActorDiedError,
    ActorHandleNotFoundError,
    ActorPlacementGroupRemoved,
    ActorUnavailableError,
    ActorUnschedulableError,
    AsyncioActorExit,
    PendingCallsLimitExceeded,
    RayActorError,
)
from beamlet.exceptions.objects import (
    ObjectFetchTimedOutError,
    ObjectFreedError,
    ObjectLostError,
    ObjectReconstructionFailedError,
    ObjectRefStreamEndOfStreamError,
    OufOfBandObjectRefSerializationException,
    OwnerDiedError,
    PlasmaObjectNotAvailable,
    ReferenceCountingAssertionError,
)
from beamlet.exceptions.root import RayError
from beamlet.exceptions.system import (
    AuthenticationError,
    ClusterGoneError,
    CrossLanguageError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    ProcessMemoryError,
    RayCgraphCapacityExceeded,
    RayChannelError,
    RayChannelTimeoutError,
    RayDirectTransportError,
    RaySystemError,
    RpcError,
    RuntimeEnvSetupError,
    StreamingGeneratorReplayInconsistentError,
)
from beamlet.exceptions.task_error import CallSite, RayTaskError
from beamlet.exceptions.tasks import (
    BlockingInAsyncError,
    DeadlockError,
    GetTimeoutError,
    InfeasibleError,
    TaskCancelledError,
    TaskPlacementGroupRemoved,
    TaskUnschedulableError,
    UnserializableException,
    UserCodeException,
    WorkerCrashedError,
)

# --- names of Ray 1.x ---------------------------------------------------------------------------

RayTimeoutError = GetTimeoutError
RayConnectionError = RaySystemError
RayWorkerError = WorkerCrashedError
RayObjectLostError = ObjectLostError
UnreconstructableError = ObjectReconstructionFailedError
ObjectReconstructionFailedMaxAttemptsExceededError = ObjectReconstructionFailedError
ObjectReconstructionFailedLineageEvictedError = ObjectReconstructionFailedError
ObjectUnreachableError = ObjectLostError
RayCancellationError = TaskCancelledError
RayOutOfMemoryError = OutOfMemoryError
RayletError = RaySystemError

#: What can be stored in an object's place, as in Ray.
RAY_EXCEPTION_TYPES: Final[list[type[RayError]]] = [
    PlasmaObjectNotAvailable,
    RayError,
    RayTaskError,
    WorkerCrashedError,
    RayActorError,
    ObjectStoreFullError,
    ObjectLostError,
    ObjectFetchTimedOutError,
    ReferenceCountingAssertionError,
    ObjectReconstructionFailedError,
    OwnerDiedError,
    GetTimeoutError,
    AsyncioActorExit,
    RuntimeEnvSetupError,
    TaskPlacementGroupRemoved,
    ActorPlacementGroupRemoved,
    LocalRayletDiedError,
    TaskUnschedulableError,
    ActorDiedError,
    ActorUnschedulableError,
    ActorUnavailableError,
    RayChannelError,
    RayChannelTimeoutError,
    OufOfBandObjectRefSerializationException,
    RayCgraphCapacityExceeded,
    UnserializableException,
    ActorAlreadyExistsError,
    ActorHandleNotFoundError,
    TaskCancelledError,
    AuthenticationError,
]

__all__ = [
    "RAY_EXCEPTION_TYPES",
    "ActorAlreadyExistsError",
    "ActorClassInheritanceException",
    "ActorDiedError",
    "ActorHandleNotFoundError",
    "ActorPlacementGroupRemoved",
    "ActorUnavailableError",
    "ActorUnschedulableError",
    "AsyncioActorExit",
    "AuthenticationError",
    "BlockingInAsyncError",
    "CallSite",
    "ClusterGoneError",
    "CrossLanguageError",
    "DeadlockError",
    "ErrorType",
    "GetTimeoutError",
    "InfeasibleError",
    "LocalRayletDiedError",
    "NodeDiedError",
    "ObjectFetchTimedOutError",
    "ObjectFreedError",
    "ObjectLostError",
    "ObjectReconstructionFailedError",
    "ObjectReconstructionFailedLineageEvictedError",
    "ObjectReconstructionFailedMaxAttemptsExceededError",
    "ObjectRefStreamEndOfStreamError",
    "ObjectStoreFullError",
    "ObjectUnreachableError",
    "OufOfBandObjectRefSerializationException",
    "OutOfDiskError",
    "OutOfMemoryError",
    "OwnerDiedError",
    "PendingCallsLimitExceeded",
    "PlasmaObjectNotAvailable",
    "ProcessMemoryError",
    "RayActorError",
    "RayCancellationError",
    "RayCgraphCapacityExceeded",
    "RayChannelError",
    "RayChannelTimeoutError",
    "RayConnectionError",
    "RayDirectTransportError",
    "RayError",
    "RayObjectLostError",
    "RayOutOfMemoryError",
    "RaySystemError",
    "RayTaskError",
    "RayTimeoutError",
    "RayWorkerError",
    "RayletError",
    "ReferenceCountingAssertionError",
    "RpcError",
    "RuntimeEnvSetupError",
    "SessionRootError",
    "StreamingGeneratorReplayInconsistentError",
    "TaskCancelledError",
    "TaskPlacementGroupRemoved",
    "TaskUnschedulableError",
    "UnreconstructableError",
    "UnserializableException",
    "UserCodeException",
    "WorkerCrashedError",
]

# What users see in tracebacks is where they import it from.
for _name in __all__:
    if isinstance(_class := globals()[_name], type):
        _class.__module__ = __name__
