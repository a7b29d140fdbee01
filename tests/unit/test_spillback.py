"""Tasks of one process whose requests for workers are sent on to other nodes, on a wire that is a list."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from beamlet.base.ids import Address, NodeId
from beamlet.protocol.node import (
    CancelLeaseRequest,
    LeaseCancelled,
    LeaseGranted,
    LeaseName,
    LeaseSpillback,
    RequestLease,
    ReturnLease,
)
from support.owner import NODE
from support.submitting import Caller, FakeRaylet


@pytest.fixture
def caller() -> Iterator[Caller]:
    caller = Caller()
    yield caller
    caller.check()
    caller.close()


ELSEWHERE = NodeId(b"e" * 28)


def spill(caller: Caller, raylet: FakeRaylet, node: NodeId = ELSEWHERE) -> None:
    (request,) = raylet.asked(RequestLease)
    raylet.answer(LeaseSpillback(request.req, node, "elsewhere:1"))


@pytest.fixture
def other(caller: Caller) -> FakeRaylet:
    raylet = FakeRaylet(1001)
    caller.raylets.add(ELSEWHERE, raylet)
    return raylet


def test_a_request_sent_on_is_granted_there_and_its_lease_returned_there(
    caller: Caller, other: FakeRaylet
) -> None:
    ref = caller.task()
    spill(caller, caller.raylet)
    (request,) = other.asked(RequestLease)
    address = Address(b"far".ljust(32))
    other.answer(LeaseGranted(request.req, LeaseName(ELSEWHERE, 1), address, 5))
    worker = caller.peers.get(address)
    caller.answer(worker, caller.pushed(worker)[0], 1)
    assert caller.outcome(ref) == 1
    caller.pass_time(1.0)
    assert [m.lease for m in other.took(ReturnLease)] == [LeaseName(ELSEWHERE, 1)]
    assert not caller.raylet.took(ReturnLease)


def test_a_request_sent_on_is_cancelled_where_it_is(caller: Caller, other: FakeRaylet) -> None:
    ref = caller.task()
    spill(caller, caller.raylet)
    caller.cancelling.cancel(ref, False, True)
    (order,) = other.took(CancelLeaseRequest)
    other.answer(LeaseCancelled(order.req))
    assert not caller.raylet.took(CancelLeaseRequest)


def test_a_request_that_nobody_wants_any_more_is_not_sent_on(caller: Caller, other: FakeRaylet) -> None:
    ref = caller.task()
    caller.cancelling.cancel(ref, False, True)
    spill(caller, caller.raylet)
    assert not other.asked(RequestLease)


def test_a_request_is_not_sent_in_circles(caller: Caller, other: FakeRaylet) -> None:
    ref = caller.task()
    spill(caller, caller.raylet)
    spill(caller, other, NODE)
    assert "which was asked before" in str(caller.outcome(ref))


def test_a_request_sent_on_to_a_node_that_is_not_known_fails_its_tasks(caller: Caller) -> None:
    ref = caller.task()
    spill(caller, caller.raylet)
    assert "elsewhere:1" in str(caller.outcome(ref))
