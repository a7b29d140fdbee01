"""The exception family: who descends from whom, what constructors take, that all of it can be sent."""

from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil
from collections.abc import Iterator

import cloudpickle
import pytest

import beamlet
from beamlet import exceptions as family
from beamlet.base.death import DeathCertificate
from beamlet.exceptions import ErrorType, RayError, RayTaskError

#: Ray 2.60's tree, as observed: name → names of the bases.
TREE = """
RayError: Exception
RayTaskError TaskCancelledError RayActorError WorkerCrashedError LocalRayletDiedError NodeDiedError: RayError
OutOfMemoryError OutOfDiskError ObjectStoreFullError ObjectLostError RaySystemError: RayError
RuntimeEnvSetupError: RayError
TaskPlacementGroupRemoved ActorPlacementGroupRemoved TaskUnschedulableError ActorUnschedulableError: RayError
PendingCallsLimitExceeded AsyncioActorExit AuthenticationError UserCodeException: RayError
UnserializableException CrossLanguageError PlasmaObjectNotAvailable RpcError: RayError
ObjectRefStreamEndOfStreamError OufOfBandObjectRefSerializationException: RayError
GetTimeoutError: RayError TimeoutError
ActorDiedError ActorUnavailableError: RayActorError
ObjectFetchTimedOutError OwnerDiedError ObjectReconstructionFailedError ObjectFreedError: ObjectLostError
ReferenceCountingAssertionError: ObjectLostError AssertionError
ActorAlreadyExistsError ActorHandleNotFoundError: ValueError RayError
StreamingGeneratorReplayInconsistentError RayChannelError RayCgraphCapacityExceeded: RaySystemError
RayDirectTransportError ClusterGoneError: RaySystemError
RayChannelTimeoutError: RayChannelError TimeoutError
ProcessMemoryError: RayError MemoryError
InfeasibleError DeadlockError BlockingInAsyncError: RayError
"""
BASES = {
    name: bases.split()
    for line in TREE.strip().splitlines()
    for names, _, bases in [line.partition(":")]
    for name in names.split()
}

CERTIFICATE = DeathCertificate(
    worker_id=b"w" * 28, node_id=b"n" * 28, pid=4711, signal=9, task_name="f", last_words=("about to fail",)
)

#: One of each, through every constructor shape.
SAMPLES = [
    family.RayTaskError("f", "f() (pid=1, ip=::1)\nValueError: x", ValueError("x"), pid=1, ip="::1"),
    family.TaskCancelledError(),
    family.TaskCancelledError("ab12", "by the driver"),
    family.GetTimeoutError("not within 3 s"),
    family.RayActorError(),
    family.RayActorError("ab12", "gone", True, True),
    family.ActorDiedError(),
    family.ActorDiedError("killed by ray.kill", actor_id="ab12", actor_name="Counter"),
    family.ActorDiedError(CERTIFICATE, actor_id="ab12"),
    family.ActorUnavailableError("restarting", b"\xab\x12"),
    family.ActorUnavailableError("restarting", b"\xab\x12", was_sent=False),
    family.WorkerCrashedError(),
    family.ProcessMemoryError("no memory"),
    family.WorkerCrashedError("f died", certificate=CERTIFICATE),
    family.NodeDiedError("node b"),
    family.OutOfMemoryError("used 3 GiB"),
    family.ObjectLostError("ab", None, "app.py:3"),
    family.OwnerDiedError("ab", "addr", ""),
    family.ObjectReconstructionFailedError("ab", ErrorType.OBJECT_UNRECONSTRUCTABLE_PUT),
    family.ReferenceCountingAssertionError("ab", None, ""),
    family.RaySystemError("not started", "trace"),
    family.ClusterGoneError("it ended", "/tmp/session"),
    family.RuntimeEnvSetupError(),
    family.ActorAlreadyExistsError("name 'c' is taken"),
    family.AuthenticationError("wrong token"),
    family.UnserializableException("ValueError: x"),
    family.CrossLanguageError("java"),
    family.RpcError("gone", 14),
    family.ObjectStoreFullError(),
]


@pytest.mark.parametrize("name", BASES)
def test_bases_are_rays(name: str) -> None:
    assert [base.__name__ for base in plain_bases(getattr(family, name))] == BASES[name]


def plain_bases(cls: type) -> list[type]:
    """Bases as users see them: the helpers in root.py count as RayError."""
    return [
        RayError if base.__name__ in ("Worded", "WithMessage", "WithErrorMessage") else base
        for base in cls.__bases__
    ]


def test_everything_public_is_in_the_tree_and_lives_where_users_import_it() -> None:
    classes = {
        name: value
        for name in family.__all__
        if inspect.isclass(value := getattr(family, name)) and issubclass(value, RayError)
    }
    assert {value.__name__ for value in classes.values()} == set(BASES)
    assert {value.__module__ for value in classes.values()} == {"beamlet.exceptions"}


#: Classes that users never meet: turned into a public one or into words before they reach a program. The
#: first four tell of a defect of ours, where the private name is what is wanted.
INTERNAL = [
    "base.invariants.InvariantBroken",
    "object_store.layout.LayoutError",
    "object_store.outcomes.StoreMisuse",
    "raylet.worker_record.ImpossibleStep",
    "core_worker.core_worker.Misdirected",
    "gcs.actor_states.IllegalTransition",
    "gcs.gcs.UnexpectedMessage",
    "raylet.members.PeerMisuse",
    "rpc.containment.Misuse",
    "rpc.framing.FramingError",
    "rpc.limits.DescriptorMissing",
    "rpc.auth.HandshakeError",
    "rpc.listener._ShownOut",
    "core_worker.executing.runner.ActorExit",
    "object_store.arena.WritingEnded",
    "exceptions.root.Worded",
    "exceptions.root.WithMessage",
    "exceptions.root.WithErrorMessage",
]


def test_an_exception_class_is_public_or_known_to_stay_inside() -> None:
    """What a traceback calls an error is what a user may import and catch."""
    for module in pkgutil.walk_packages(beamlet.__path__, "beamlet."):
        if not module.name.endswith("__main__") and ".testing" not in module.name:
            importlib.import_module(module.name)
    private = [
        f"{cls.__module__}.{cls.__qualname__}"
        for cls in descendants(BaseException)
        if cls.__module__.startswith("beamlet.")
        and not cls.__module__.startswith("beamlet.testing")
        and not cls.__module__.startswith("beamlet.util.")
        and getattr(family, cls.__name__, None) is not cls
        and not issubclass(cls, RayTaskError)  # the dual classes
    ]
    assert sorted(set(private)) == sorted(f"beamlet.{name}" for name in INTERNAL)


def descendants(cls: type) -> Iterator[type]:
    """Each once or more."""
    for child in type.__subclasses__(cls):
        yield child
        yield from descendants(child)


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("pickler", [pickle, cloudpickle], ids=["pickle", "cloudpickle"])
def test_errors_cross_processes_whole(error: RayError, pickler: object) -> None:
    back = pickle.loads(pickler.dumps(error))  # type: ignore[attr-defined]
    assert type(back) is type(error)
    assert str(back) == str(error)
    state, back_state = dict(vars(error)), dict(vars(back))
    assert repr(back_state) == repr(state)


def test_to_bytes_and_back() -> None:
    error = family.NodeDiedError("node b")
    assert RayError.from_bytes(error.to_bytes()).args == ("node b",)
    with pytest.raises(TypeError, match="hold a NodeDiedError, expected a RpcError"):
        family.RpcError.from_bytes(error.to_bytes())


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_every_error_says_something(error: RayError) -> None:
    assert str(error).strip()


def test_a_crash_names_its_cause_and_last_words() -> None:
    text = str(family.WorkerCrashedError("f (app.py:3) failed.", certificate=CERTIFICATE))
    assert text.startswith("f (app.py:3) failed.")
    assert "signal 9 (SIGKILL)" in text
    assert "about to fail" in text


def test_actor_died_says_whose_fault_it_was() -> None:
    task_error = RayTaskError(
        "A.__init__", "A.__init__() (pid=1)\nValueError: no", ValueError("no"), actor_id="ab"
    )
    from_init = family.ActorDiedError.from_task_error(task_error)
    assert from_init.actor_init_failed
    assert from_init.actor_id == "ab"
    assert "ValueError: no" in str(from_init)

    crashed = family.ActorDiedError(CERTIFICATE, actor_id="ab", actor_name="Counter")
    assert not crashed.actor_init_failed
    assert crashed.certificate is CERTIFICATE
    assert str(crashed).startswith("The actor Counter (ab) is dead: ")


def test_lost_objects_say_where_they_were_made() -> None:
    assert "ab (created at app.py:3)" in str(family.OwnerDiedError("ab", None, "app.py:3"))
    error = family.ObjectReconstructionFailedError(
        "ab", ErrorType.OBJECT_UNRECONSTRUCTABLE_PUT, call_site="app.py:3"
    )
    assert "made by put()" in str(error)
    assert "OBJECT_UNRECONSTRUCTABLE_PUT" in str(error)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("RayTimeoutError", "GetTimeoutError"),
        ("RayConnectionError", "RaySystemError"),
        ("RayWorkerError", "WorkerCrashedError"),
        ("RayObjectLostError", "ObjectLostError"),
        ("UnreconstructableError", "ObjectReconstructionFailedError"),
        ("RayCancellationError", "TaskCancelledError"),
        ("ObjectUnreachableError", "ObjectLostError"),
        ("RayOutOfMemoryError", "OutOfMemoryError"),
        ("RayletError", "RaySystemError"),
    ],
)
def test_names_of_ray_1_are_aliases(old: str, new: str) -> None:
    assert getattr(family, old) is getattr(family, new)


def test_name_conflicts_are_value_errors() -> None:
    with pytest.raises(ValueError, match="taken"):
        raise family.ActorAlreadyExistsError("name 'c' is taken")
