"""A process's way into its node's store: what it says to the raylet, and in how many frames."""

from __future__ import annotations

import socket
import threading
from typing import Any

from beamlet.base.ids import Address, ObjectId
from beamlet.core_worker.node_link import NodeLink
from beamlet.core_worker.owning.store_client import StoreClient
from beamlet.exceptions import ObjectStoreFullError
from beamlet.protocol.node import CreateObject, ObjectRefused, UnpinObject
from beamlet.rpc.batches import decoder_for, encode_frame
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
    store = StoreClient(link, owner.releases, owner.reactor, NODE, arena, False)
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
