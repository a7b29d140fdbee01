"""Core worker ↔ core worker: pushing tasks and actor calls, answering them, and who holds which object.

An *owner* pushes work to an *executor*; both ends of a connection may play both parts.  ``seq`` numbers are
chosen by the pusher, per connection, and are all that an answer needs to name the work.

    PushTask / CallActor  → Result | Results            exactly one answer each, unless handed back
    StealTasks            → HandedBack                  tasks not begun yet, to be pushed elsewhere
    GetObject             → ObjectValue | ObjectStored | ObjectGone     when ready
    AddBorrower           → BorrowerAdded
    Yielded, Consumed, StreamDropped                    items of a generator before its answer
    RemoveBorrower, ReleaseHold, CancelTask             no answer
    AskProgress           → Progress
    BlockedOn                                           passed on along who waits for whom
"""

from collections.abc import Sequence

import msgspec

from beamlet.base.ids import Address, FunctionKey, NodeId, ObjectId, TaskId
from beamlet.protocol.message import ContainedRef, Message


class InlineDep(Message, tag=1):
    """A top-level reference among the arguments whose value is small: here it is (encoded value)."""

    payload: bytes


class StoreDep(Message, tag=2):
    """A top-level reference whose value lies in object stores: fetch it."""

    object_id: ObjectId
    owner: Address
    nodes: list[NodeId]


class InPlace(Message, tag=25):
    """A top-level argument that lies in the pusher's slab and stays there until the answer: read it there."""

    offset: int
    size: int


class Room(msgspec.Struct, array_like=True, frozen=True):
    """A piece of the pusher's slab for the result, if it fits; the first ``warm`` bytes have pages."""

    offset: int
    size: int
    warm: int


class PushTask(Message, tag=3):
    """Run a function. Repeat-safe: the pusher uses a new ``attempt`` for every push of a task."""

    seq: int
    task_id: TaskId
    function: FunctionKey
    name: str
    num_returns: int
    args: bytes
    deps: Sequence[InlineDep | StoreDep | InPlace] = ()
    #: References nested in the arguments; the pusher holds them until the answer.
    nested: Sequence[ContainedRef] = ()
    attempt: int = 0
    #: Resources assigned, in 1/10 000; what get_runtime_context() reports.
    resources: dict[str, int] | None = None
    #: After this many runs of the function here the worker takes no more tasks; 0: no limit.
    max_calls: int = 0
    #: Device indices assigned by the lease, per resource: {"GPU": [0]}.
    accelerators: dict[str, list[int]] | None = None
    #: Generators: most items not consumed yet; negative: no limit.
    stream_limit: int = -1
    room: Room | None = None


class CallActor(Message, tag=4):
    """Call a method of the actor living in the receiving process."""

    seq: int
    task_id: TaskId
    method: str
    num_returns: int
    args: bytes
    deps: Sequence[InlineDep | StoreDep | InPlace] = ()
    nested: Sequence[ContainedRef] = ()
    attempt: int = 0
    #: Concurrency group; empty for the method's default.
    group: str = ""
    name: str = ""
    #: As in PushTask.
    stream_limit: int = -1
    room: Room | None = None


class Result(Message, tag=5):
    """The common answer: one inline value, no references inside. ``busy_us``: how long it ran."""

    seq: int
    payload: bytes
    busy_us: int = 0


class StoredAt(Message, tag=6):
    """A return value sealed in a node's store."""

    node: NodeId
    size: int


class InRoom(Message, tag=26):
    """A return value of ``size`` bytes that was written into the room that came with the work."""

    size: int


class Results(Message, tag=7):
    """The general answer: 0–n values, inline or stored, with references inside.

    ``hold``: when not 0, the executor keeps ``contained`` alive until ReleaseHold(hold).
    ``failed``: user code raised (so ``items`` is one error payload, which all values are).
    ``error_types``: then the classes of what it raised, most derived first, as "module.qualname": the
    submitter decides about retries by them and unpickles nothing.
    """

    seq: int
    items: list[bytes | StoredAt | InRoom]
    busy_us: int = 0
    contained: list[list[ContainedRef]] = []
    hold: int = 0
    failed: bool = False
    #: The worker takes no more tasks (max_calls reached).
    leaving: bool = False
    error_types: Sequence[str] = ()


class StealTasks(Message, tag=8):
    """Give back up to ``most`` tasks that have not begun, last pushed first."""

    most: int


class HandedBack(Message, tag=9):
    """These were not begun and never will be here."""

    seqs: list[int]
    #: The executor waits in ``get``: what is pushed to it now would queue behind that wait.
    blocked: bool = False


class CancelTask(Message, tag=10):
    task_id: TaskId
    force: bool
    recursive: bool


class GetObject(Message, tag=11):
    """Borrower → owner: answer when the object is ready."""

    object_id: ObjectId


class ObjectValue(Message, tag=12):
    object_id: ObjectId
    payload: bytes
    contained: list[ContainedRef] = []


class ObjectStored(Message, tag=13):
    object_id: ObjectId
    nodes: list[NodeId]
    size: int


class ObjectGone(Message, tag=14):
    """The owner does not have it: freed, lost, or never known. ``reason`` is for a person."""

    object_id: ObjectId
    reason: str


class AddBorrower(Message, tag=15):
    """The sender holds these references now. Until the answer, somebody else still guards them."""

    token: int
    object_ids: list[ObjectId]


class BorrowerAdded(Message, tag=16):
    token: int
    #: Those the owner no longer had.
    missing: list[ObjectId] = []


class RemoveBorrower(Message, tag=17):
    object_ids: list[ObjectId]


class ReleaseHold(Message, tag=18):
    """Answer to Results.hold: the receiver of the results has registered for what they contain."""

    hold: int


class WaitStep(msgspec.Struct, array_like=True):
    """One link of a chain of waits: a call that waits in ``get`` for another call."""

    worker: Address
    #: Names the wait in its process; never used again there.
    number: int
    #: Monotonic seconds at which the wait began.
    since: float
    #: The waiting call and where it waits: "A.outer", "app.py:6".
    name: str
    site: str
    #: The call waited for, and what ties that one to the next step; "" if it *is* the next step.
    awaits: str = ""
    via: str = ""


class BlockedOn(Message, tag=19):
    """Deadlock detection: follow who waits for whom.

    Asks the executor of ``task_id`` what keeps it from finishing, or, when ``object_id`` is not empty, the
    owner of that object who makes it. ``path`` so far; ``round`` counts the tries of its first step.
    """

    task_id: TaskId
    round: int
    path: list[WaitStep]
    object_id: ObjectId = ObjectId(b"")


class AskProgress(Message, tag=20):
    """To the executor of ``task_id``: how far is it? For people who wait."""

    token: int
    task_id: TaskId


class Progress(Message, tag=21):
    """``text``: what it does or waits for; empty when unknown. ``is_running``: it makes headway."""

    token: int
    text: str
    is_running: bool


class Yielded(Message, tag=22):
    """Executor → owner: item ``index`` (from 1) of the generator task ``seq``, which goes on."""

    seq: int
    index: int
    item: bytes | StoredAt
    contained: list[ContainedRef] = []
    #: As in Results.
    hold: int = 0


class Consumed(Message, tag=23):
    """Owner → executor of a generator with a limit: so many items were taken so far."""

    task_id: TaskId
    count: int


class StreamDropped(Message, tag=24):
    """Owner → executor of a generator: nobody will take another item. It stops at its next one."""

    task_id: TaskId


PeerMessage = (
    PushTask
    | CallActor
    | Result
    | Results
    | StealTasks
    | HandedBack
    | CancelTask
    | GetObject
    | ObjectValue
    | ObjectStored
    | ObjectGone
    | AddBorrower
    | BorrowerAdded
    | RemoveBorrower
    | ReleaseHold
    | BlockedOn
    | AskProgress
    | Progress
    | Yielded
    | Consumed
    | StreamDropped
)
