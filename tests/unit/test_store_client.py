"""A process's way into its node's store: what it says to the raylet, and in how many frames."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from beamlet.base.ids import Address, ObjectId
from beamlet.core_worker.node_link import NodeLink
from beamlet.core_worker.owning.own_slab import Place
from beamlet.core_worker.owning.store_client import StoreClient
from beamlet.exceptions import ObjectStoreFullError
from beamlet.protocol.node import (
    AbortObject,
    CreateObject,
    ObjectCreated,
    ObjectPinned,
    ObjectRefused,
    PinObject,
    UnpinObject,
)
from beamlet.rpc.batches import decoder_for, encode_frame
from beamlet.rpc.connection import Connection
from beamlet.rpc.framing import Deframer
from beamlet.serialization.values import Serialized, dumps
from support.owner import NODE, Owner


def test_what_was_let_go_travels_with_the_next_request_for_room() -> None:
    owner = Owner()
    near, far = socket.socketpair()
    far.settimeout(30.0)
    link = NodeLink(near, owner.reactor, lambda _: None, lambda _: None, "/session")
    owner.releases._raylet = link
    arena: Any = None
    store = StoreClient(link, owner.releases, owner.reactor, NODE, arena, False, owner.own)
    data = dumps(bytearray(1_000_000))
    assert isinstance(data, Serialized)
    refusals: list[ObjectStoreFullError] = []

    def write() -> None:
        try:
            store.write(ObjectId(b"n" * 28), data, "here", Address(b"s" * 32))
        except ObjectStoreFullError as error:
            refusals.append(error)

    owner.releases.unpinned.append(ObjectId(b"o" * 28))
    writer = threading.Thread(target=write)
    writer.start()
    first, *_ = Deframer().feed(memoryview(far.recv(1 << 16)))
    messages: list[Any] = decoder_for(UnpinObject | CreateObject).decode(first)
    far.send(encode_frame([ObjectRefused(messages[-1].req, "full")]))
    writer.join(30.0)
    assert [type(message) for message in messages] == [UnpinObject, CreateObject]
    assert "full" in str(refusals[0])
    with owner.reactor.lock:
        link.close()
    far.close()
    owner.close()


class FakeArena:
    """Maps nothing: there is no memory."""

    def map_object(self, *_: Any, **__: Any) -> Any:
        raise OSError("no memory for a mapping")

    def write(self, *_: Any) -> None:
        raise OSError("no memory for pages")


class Client:
    """A store client whose raylet says what the test does."""

    def __init__(self) -> None:
        self.owner = Owner()
        near, self.far = socket.socketpair()
        self.far.settimeout(30.0)
        self.link = NodeLink(near, self.owner.reactor, lambda _: None, lambda _: None, "/session")
        self.owner.releases._raylet = self.link
        arena: Any = FakeArena()
        self.store = StoreClient(
            self.link, self.owner.releases, self.owner.reactor, NODE, arena, False, self.owner.own
        )
        self._deframer = Deframer()

    def said(self) -> list[Any]:
        """What the raylet reads once everything is sent."""
        with self.owner.reactor.lock:
            self.owner.releases.drain()
            self.owner.reactor.flush()
        headers = self._deframer.feed(memoryview(self.far.recv(1 << 16)))
        decode = decoder_for(CreateObject | AbortObject | PinObject | UnpinObject).decode
        return [message for header in headers for message in decode(header)]

    def hear(self, message: Any) -> None:
        with self.owner.reactor.lock:
            self.link._received(self.link.connection, message)

    def close(self) -> None:
        with self.owner.reactor.lock:
            self.link.close()
        self.far.close()
        self.owner.close()


OBJECT = ObjectId(b"n" * 28)


@pytest.mark.parametrize("answered", ["before the interrupt is seen", "later"])
@pytest.mark.parametrize(
    ("use", "answer", "taken_back"),
    [
        (lambda store: store.write(OBJECT, dumps(bytearray(1_000_000)), "", Address(b"s" * 32)),
         ObjectCreated(1, 0, 0), AbortObject(OBJECT)),
        (lambda store: store.read(OBJECT, Address(b"s" * 32), [NODE]),
         ObjectPinned(1, 0, 100), UnpinObject(OBJECT)),
    ],
    ids=["room", "pin"],
)  # fmt: skip
def test_what_comes_for_a_wait_that_was_given_up_goes_back(
    use: Callable[[StoreClient], object], answer: Any, taken_back: Any, answered: str
) -> None:
    client = Client()

    def interrupted(*_: object) -> bool:
        if answered != "later":
            client.hear(answer)
        raise KeyboardInterrupt

    client.owner.reactor.wait = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        use(client.store)
    if answered == "later":
        client.hear(answer)
    asked, *back = client.said()
    assert asked.object_id == OBJECT
    assert back == [taken_back]
    assert not client.link._awaited
    client.close()


class Told:
    """A socket that notes when it is written to."""

    def __init__(self, sock: socket.socket, name: str, notes: list[str]) -> None:
        self.fileno, self.setblocking, self.close = sock.fileno, sock.setblocking, sock.close
        self._sock, self._name, self._notes = sock, name, notes

    def send(self, data: Any) -> int:
        self._notes.append(self._name)
        return self._sock.send(data)


@pytest.mark.parametrize("several", [True, False])
def test_nobody_hears_of_a_result_before_it_is_sealed(several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its owner, while we wrote, was sent something else: SIGKILL may come between two writes."""
    client = Client()
    notes: list[str] = []
    near, far = socket.socketpair()
    reactor = client.owner.reactor
    wire: Any = Told(near, "owner", notes)
    owner = Connection(wire, reactor, messages=AbortObject, on_close=nothing, on_message=nothing)
    raylet: Any = client.link.connection
    monkeypatch.setattr(raylet, "_sock", Told(raylet._sock, "raylet", notes))

    def answered(*_: object) -> bool:
        client.hear(ObjectCreated(1, 0, 0))
        return True

    def write(*_: object) -> None:
        reactor.flush()
        notes.clear()
        reactor._prompt_from = float("inf")  # it writes much: what is queued may wait for more
        with reactor.lock:
            owner.send(AbortObject(OBJECT))

    arena: Any = client.store._arena
    arena.write = write
    reactor.wait = answered  # type: ignore[method-assign]
    unsealed: list[ObjectId] | None = [] if several else None
    client.store.write(OBJECT, dumps(bytearray(1_000_000)), "", Address(b"s" * 32), unsealed)
    with reactor.lock:
        client.store.seal(unsealed or [])
        owner.send(AbortObject(OBJECT))
        assert not notes
        reactor.flush()
    assert notes == ["raylet", "owner"]
    owner.close()
    far.close()
    client.close()


def nothing(*_: object) -> None: ...


def test_what_cannot_be_mapped_is_not_pinned() -> None:
    client = Client()

    def answered(*_: object) -> bool:
        client.hear(ObjectPinned(1, 0, 100))
        return True

    client.owner.reactor.wait = answered  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no memory"):
        client.store.read(OBJECT, Address(b"s" * 32), [NODE])
    assert client.said()[1:] == [UnpinObject(OBJECT)]
    client.close()


def test_a_value_that_cannot_be_moved_out_of_our_slab_for_want_of_memory_gives_its_room_back() -> None:
    client = Client()
    heard: list[bool] = []
    with client.owner.reactor.lock:
        client.store.move(OBJECT, Place(0, 4096, 0), 100, "", heard.append)
    client.hear(ObjectCreated(1, 0, 0))
    asked, *back = client.said()
    assert asked.object_id == OBJECT
    assert back == [AbortObject(OBJECT)]
    assert heard == [False]
    client.close()
