"""● Keys and values, bytes to bytes, in namespaces that do not see each other.

Namespace ``"fun"`` holds the exported functions and classes, under their content hash: a worker that is
pushed a task may ask for its function before the driver's export has arrived, so a get can wait for the put.
"""

from __future__ import annotations

from beamlet.base.ids import Address
from beamlet.gcs.effects import Effect, ToCoreWorker
from beamlet.gcs.storage import Storage
from beamlet.protocol.gcs import KvDel, KvDone, KvGet, KvKeyList, KvKeys, KvPut, KvValue

TABLE = "kv"


class KvTable:
    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._values: dict[str, dict[bytes, bytes]] = {}
        #: (namespace, key) → who waits for it to appear, first come first.
        self._waiting: dict[tuple[str, bytes], list[tuple[Address, int]]] = {}

    def handle_put(self, sender: Address, message: KvPut) -> list[Effect]:
        values = self._values.setdefault(message.namespace, {})
        if message.key in values and not message.overwrite:
            return [ToCoreWorker(sender, KvDone(message.req, changed=False))]
        values[message.key] = message.value
        self._storage.put(TABLE, _row(message.namespace, message.key), message.value)
        waiting = self._waiting.pop((message.namespace, message.key), [])
        return [
            ToCoreWorker(sender, KvDone(message.req, changed=True)),
            *(ToCoreWorker(address, KvValue(req, message.value)) for address, req in waiting),
        ]

    def handle_get(self, sender: Address, message: KvGet) -> list[Effect]:
        value = self._values.get(message.namespace, {}).get(message.key)
        if value is None and message.wait:
            self._waiting.setdefault((message.namespace, message.key), []).append((sender, message.req))
            return []
        return [ToCoreWorker(sender, KvValue(message.req, value))]

    def handle_del(self, sender: Address, message: KvDel) -> list[Effect]:
        values = self._values.get(message.namespace, {})
        existed = values.pop(message.key, None) is not None
        if existed:
            self._storage.delete(TABLE, _row(message.namespace, message.key))
        if not values:
            self._values.pop(message.namespace, None)
        return [ToCoreWorker(sender, KvDone(message.req, changed=existed))]

    def handle_keys(self, sender: Address, message: KvKeys) -> list[Effect]:
        values = self._values.get(message.namespace, {})
        keys = sorted(key for key in values if key.startswith(message.prefix))
        return [ToCoreWorker(sender, KvKeyList(message.req, keys))]

    def handle_core_worker_gone(self, address: Address) -> None:
        """Nobody is left to hear its answers."""
        for place, waiting in list(self._waiting.items()):
            if kept := [waiter for waiter in waiting if waiter[0] != address]:
                self._waiting[place] = kept
            else:
                del self._waiting[place]

    @property
    def waiting_count(self) -> int:
        return sum(map(len, self._waiting.values()))

    def check_invariants(self) -> None:
        for (namespace, key), waiting in self._waiting.items():
            assert waiting, f"an empty list of waiters is kept for {key!r} in {namespace!r}"
            assert key not in self._values.get(namespace, {}), (
                f"{len(waiting)} wait for {key!r} in {namespace!r}, which is there"
            )


def _row(namespace: str, key: bytes) -> bytes:
    """A namespace's length comes first, so that no (namespace, key) reads like another."""
    name = namespace.encode()
    return len(name).to_bytes(4, "big") + name + key
