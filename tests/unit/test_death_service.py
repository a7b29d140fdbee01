"""Deaths on a fake wire: told once, to those who knew the dead, with how it ended."""

from __future__ import annotations

import pytest

from beamlet.base.death import DeathCertificate
from beamlet.base.ids import Address, ObjectId
from beamlet.protocol import cluster, node
from beamlet.raylet import members
from beamlet.raylet.members import is_still_heard
from support.fake_node import NODE, FakeNode, line_of


def test_a_workers_death_is_told_to_its_acquaintances_and_the_gcs_and_frees_its_lease() -> None:
    fake = FakeNode(CPU=1)
    driver, stranger = fake.driver(), fake.driver()
    fake.ask(driver, 1)
    (worker,) = fake.ready()
    address = fake.member(worker).address
    line = line_of(fake.member(worker))
    fake.die(worker, signal=11)
    (died,) = line_of(driver).take(node.WorkerDied)
    assert (died.worker, died.certificate.signal) == (address, 11)
    assert died.certificate.last_words == ("its last words",)
    assert not line_of(stranger).take(node.WorkerDied)
    (gone,) = fake.told(cluster.CoreWorkerGone)
    assert (gone.address, gone.intended) == (address, False)
    assert line.closed
    assert fake.free() == 1
    fake.die(worker)
    assert not fake.told(cluster.CoreWorkerGone), "a death is announced once"
    fake.check()


def test_who_asks_for_the_dead_learns_how_they_ended() -> None:
    fake = FakeNode(CPU=1)
    driver = fake.driver()
    fake.ask(driver, 1)
    (worker,) = fake.ready()
    address = fake.member(worker).address
    fake.die(worker, signal=11)
    late = fake.driver()
    fake.services.introductions.connect(late, node.ConnectPeer(3, address))
    (answer,) = line_of(late).take(node.PeerUnreachable)
    assert answer.certificate is not None
    assert answer.certificate.signal == 11


def test_the_dead_are_remembered_by_number_and_by_what_they_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "_WORDS_REMEMBERED", 5000)
    table = members.Members(NODE)
    addresses = [Address(b"%056d" % number) for number in range(10)]
    for address in addresses:
        table.leave(address, DeathCertificate(address, NODE, 1, last_words=("x" * 1000,) * 2))
    assert [address for address in addresses if table.certificate(address)] == addresses[-2:]


def test_a_failing_effect_of_a_death_does_not_keep_the_others_from_being_done() -> None:
    """Its lease is freed and the GCS learns of it although the timeline could not be told."""
    fake = FakeNode(CPU=1)
    driver = fake.driver()
    fake.ask(driver, 1)
    fake.ask(driver, 2)
    (worker,) = fake.ready()

    def fail(_: object) -> None:
        raise OSError(5, "Input/output error")

    fake.events.gone = fail  # type: ignore[method-assign, assignment]
    fake.die(worker)
    assert [str(error) for error in fake.contained] == ["[Errno 5] Input/output error"]
    assert fake.free() == 0, "the second request has the CPU now"
    assert len(fake.ready()) == 1
    assert fake.told(cluster.CoreWorkerGone)


def test_a_death_is_told_though_its_last_output_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNode(CPU=1)
    driver = fake.driver()
    fake.ask(driver, 1)
    (worker,) = fake.ready()

    def fail(_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(fake.output, "finish", fail)
    fake.die(worker)
    assert len(fake.contained) == 1
    assert line_of(driver).take(node.WorkerDied)
    assert fake.told(cluster.CoreWorkerGone)


@pytest.mark.parametrize("what", ["its last words", "what it had still said", "its connection"])
def test_a_death_is_told_though_the_head_has_no_memory_for_what_goes_before(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    fake = FakeNode(CPU=1)
    driver = fake.driver()
    fake.ask(driver, 1)
    (worker,) = fake.ready()
    line = line_of(fake.member(worker))

    def fail(*_: object) -> None:
        raise MemoryError

    place, name = {
        "its last words": (fake.output, "forget"),
        "what it had still said": (line, "read"),
        "its connection": (line, "close"),
    }[what]
    monkeypatch.setattr(place, name, fail)
    fake.die(worker)
    assert [type(error) for error in fake.contained] == [MemoryError]
    assert line_of(driver).take(node.WorkerDied)
    assert fake.told(cluster.CoreWorkerGone)
    assert fake.free() == 1
    assert line.closed or what == "its connection"


def test_owners_learn_behind_a_death_what_the_dead_had_stored_for_them() -> None:
    """It may have died before it could announce it; of what it owned itself nobody need hear."""
    fake = FakeNode(CPU=1)
    driver = fake.driver()
    fake.ask(driver, 1)
    (name,) = fake.ready()
    worker = fake.member(name)
    ids = [ObjectId(b"%028d" % number) for number in range(4)]
    owners = [driver.address, Address(b""), driver.address, Address(b"gone" * 8)]
    for req, (object_id, owner) in enumerate(zip(ids, owners, strict=True)):
        fake.stores.create(worker, node.CreateObject(req, object_id, 9, "", owner))
        if req != 2:
            fake.stores.seal(worker, node.SealObject(object_id))
    fake.die(name)
    told = [each for each in line_of(driver).sent if isinstance(each, node.WorkerDied | node.StoredByDead)]
    assert [type(each) for each in told] == [node.WorkerDied, node.StoredByDead]
    assert told[1] == node.StoredByDead(NODE, [ids[0]])


def test_a_timeline_is_not_waited_for_from_the_dead() -> None:
    fake = FakeNode(CPU=2)
    driver = fake.driver()
    fake.ask(driver, 1)
    fake.ask(driver, 2)
    one, two = fake.ready()
    fake.events.ask(cluster.AskEvents(5))
    (tell,) = line_of(fake.member(one)).take(node.TellEvents)
    fake.events.told(fake.member(one), node.EventsTold(tell.token))
    assert not fake.told(cluster.EventsTold)
    fake.die(two)
    assert fake.told(cluster.EventsTold) == [cluster.EventsTold(5, 0)]


def test_a_worker_that_does_not_tell_is_counted() -> None:
    fake = FakeNode(CPU=1)
    fake.ask(fake.driver(), 1)
    fake.ready()
    fake.events.ask(cluster.AskEvents(5))
    fake.loop.pass_time(1.0)
    assert fake.told(cluster.EventsTold) == [cluster.EventsTold(5, 1)]


def test_what_the_dead_had_said_and_nobody_read_counts_as_far_as_it_sealed_something() -> None:
    """Its answer, by another way, may have been faster than its seal."""
    fake = FakeNode(CPU=1)
    driver = fake.driver()
    fake.ask(driver, 1)
    (name,) = fake.ready()
    worker = fake.member(name)
    object_id = ObjectId(b"%028d" % 1)
    fake.stores.create(worker, node.CreateObject(1, object_id, 9, "", driver.address))
    heard: list[object] = []

    def hear(message: node.SealObject | node.Blocked) -> None:
        if not worker.leaving or is_still_heard(worker, message):
            heard.append(message)
            assert isinstance(message, node.SealObject)
            fake.stores.seal(worker, message)

    line = line_of(worker)
    line.unread = [lambda: hear(node.Blocked()), lambda: hear(node.SealObject(object_id))]
    fake.die(name)
    assert heard == [node.SealObject(object_id)]
    assert line.closed
    (told,) = line_of(driver).take(node.StoredByDead)
    assert told.object_ids == [object_id]


def test_a_driver_that_said_goodbye_seals_nothing_more() -> None:
    driver = FakeNode(CPU=1).driver()
    assert not is_still_heard(driver, node.SealObject(ObjectId(b"%028d" % 1)))
