"""Who may say what: each speaks for itself, and an observer only asks.

These are the checks that cost nothing.  What one program may do to another of the same user all the same is
written down in docs/threat-model.md.
"""

from __future__ import annotations

from beamlet.base.ids import ACTOR_ID_BYTES
from beamlet.protocol import gcs, node
from beamlet.protocol.message import Message
from beamlet.raylet.members import Member, PeerMisuse, check_amounts

#: Observers (the CLI) have no job: they look, and leave.
_OBSERVERS_SAY = frozenset(
    {node.DriverHello, node.Goodbye}
    | {gcs.QueryCluster, gcs.QueryTimeline, gcs.KvGet, gcs.KvKeys, gcs.FindActor, gcs.ListNamedActors}
)
_ONLY_WORKERS_SAY = frozenset(
    {node.WorkerReady, node.Blocked, node.Unblocked, node.OutputMark, node.Staying, node.ExitedOnPurpose}
    | {node.DescribeTask, node.EventsTold, gcs.ActorStarted}
)
_ONLY_DRIVERS_SAY = frozenset({node.DriverHello, node.Goodbye, node.OutputPrinted, gcs.EndActors})


def check(sender: Member, message: Message) -> None:
    """Raises PeerMisuse if ``sender`` may not say this."""
    kind = type(message)
    if sender.is_driver:
        if sender.job is None and kind not in _OBSERVERS_SAY:
            raise PeerMisuse(f"an observer may ask, and nothing else: it said {kind.__name__}")
        if kind in _ONLY_WORKERS_SAY:
            raise PeerMisuse(f"a driver does not say {kind.__name__}")
    elif kind in _ONLY_DRIVERS_SAY:
        raise PeerMisuse(f"only a driver says {kind.__name__}")
    if isinstance(message, gcs.CreateActor | gcs.ActorReady):
        _check_spec(sender, message.spec)


def _check_spec(sender: Member, spec: gcs.ActorSpec) -> None:
    if len(spec.actor_id) != ACTOR_ID_BYTES:
        raise PeerMisuse(f"it creates actor {spec.class_name} with an id of {len(spec.actor_id)} bytes")
    check_amounts(spec.class_name, spec.placement_resources, spec.lifetime_resources)
    if spec.owner != sender.address:
        raise PeerMisuse(f"it creates actor {spec.class_name} in another's name")
    if sender.job is None or spec.job.job_id != sender.job.job_id:
        raise PeerMisuse(f"it creates actor {spec.class_name} for a job that is not its own")
