from __future__ import annotations

import pytest

from beamlet.base.ids import Address
from beamlet.gcs.effects import ToCoreWorker
from beamlet.gcs.kv import KvTable
from beamlet.gcs.storage import MemoryStorage
from beamlet.protocol.gcs import KvDel, KvDone, KvGet, KvKeyList, KvKeys, KvPut, KvValue

ANN = Address(b"ann")
BOB = Address(b"bob")


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def kv(storage: MemoryStorage) -> KvTable:
    return KvTable(storage)


def value_of(kv: KvTable, namespace: str, key: bytes) -> bytes | None:
    (answer,) = kv.handle_get(ANN, KvGet(1, namespace, key))
    assert isinstance(answer.message, KvValue)
    return answer.message.value


def test_put_then_get(kv: KvTable) -> None:
    assert kv.handle_put(ANN, KvPut(1, "space", b"k", b"v")) == [ToCoreWorker(ANN, KvDone(1, True))]
    assert kv.handle_get(BOB, KvGet(7, "space", b"k")) == [ToCoreWorker(BOB, KvValue(7, b"v"))]


def test_namespaces_do_not_see_each_other(kv: KvTable) -> None:
    kv.handle_put(ANN, KvPut(1, "one", b"k", b"v"))
    assert value_of(kv, "two", b"k") is None


@pytest.mark.parametrize(("overwrite", "changed", "left"), [(True, True, b"new"), (False, False, b"old")])
def test_overwrite_flag(kv: KvTable, overwrite: bool, changed: bool, left: bytes) -> None:
    kv.handle_put(ANN, KvPut(1, "n", b"k", b"old"))
    answer = kv.handle_put(ANN, KvPut(2, "n", b"k", b"new", overwrite))
    assert answer == [ToCoreWorker(ANN, KvDone(2, changed, existed=True))]
    assert value_of(kv, "n", b"k") == left


def test_an_empty_value_is_a_value(kv: KvTable) -> None:
    kv.handle_put(ANN, KvPut(1, "n", b"k", b""))
    assert value_of(kv, "n", b"k") == b""
    assert kv.handle_get(BOB, KvGet(2, "n", b"k", wait=True)) == [ToCoreWorker(BOB, KvValue(2, b""))]


def test_a_probe_is_answered_without_the_value(kv: KvTable) -> None:
    kv.handle_put(ANN, KvPut(1, "n", b"k", b"v" * 1000))
    assert kv.handle_get(BOB, KvGet(2, "n", b"k", probe=True)) == [ToCoreWorker(BOB, KvValue(2, b""))]
    assert kv.handle_get(BOB, KvGet(3, "n", b"none", probe=True)) == [ToCoreWorker(BOB, KvValue(3, None))]


def test_a_waiting_get_is_answered_once_when_the_key_appears(kv: KvTable) -> None:
    assert kv.handle_get(BOB, KvGet(5, "space", b"k", wait=True)) == []
    assert kv.handle_get(ANN, KvGet(6, "space", b"k", wait=True)) == []
    kv.handle_put(ANN, KvPut(1, "other", b"k", b"wrong namespace"))
    assert kv.handle_put(ANN, KvPut(2, "space", b"k", b"v")) == [
        ToCoreWorker(ANN, KvDone(2, True)),
        ToCoreWorker(BOB, KvValue(5, b"v")),
        ToCoreWorker(ANN, KvValue(6, b"v")),
    ]
    assert kv.handle_put(ANN, KvPut(3, "space", b"k", b"w")) == [ToCoreWorker(ANN, KvDone(3, True, True))]
    kv.check_invariants()


def test_a_waiter_that_died_is_not_answered(kv: KvTable) -> None:
    kv.handle_get(BOB, KvGet(5, "space", b"k", wait=True))
    kv.handle_get(ANN, KvGet(6, "space", b"k", wait=True))
    kv.handle_get(BOB, KvGet(7, "space", b"alone", wait=True))
    kv.handle_core_worker_gone(BOB)
    kv.check_invariants()
    assert kv.waiting_count == 1
    assert kv.handle_put(ANN, KvPut(1, "space", b"k", b"v"))[1:] == [ToCoreWorker(ANN, KvValue(6, b"v"))]


def test_delete_says_whether_there_was_something(kv: KvTable) -> None:
    kv.handle_put(ANN, KvPut(1, "n", b"k", b"v"))
    assert kv.handle_del(ANN, KvDel(2, "n", b"k")) == [ToCoreWorker(ANN, KvDone(2, True, True))]
    assert kv.handle_del(ANN, KvDel(3, "n", b"k")) == [ToCoreWorker(ANN, KvDone(3, False))]
    assert value_of(kv, "n", b"k") is None


def test_keys_by_prefix_in_order(kv: KvTable) -> None:
    for key in (b"b2", b"a1", b"b1", b"c"):
        kv.handle_put(ANN, KvPut(1, "n", key, b""))
    assert kv.handle_keys(ANN, KvKeys(2, "n", b"b")) == [ToCoreWorker(ANN, KvKeyList(2, [b"b1", b"b2"]))]
    assert kv.handle_keys(ANN, KvKeys(3, "none", b"")) == [ToCoreWorker(ANN, KvKeyList(3, []))]


def test_what_is_put_reaches_the_storage_and_leaves_it(kv: KvTable, storage: MemoryStorage) -> None:
    kv.handle_put(ANN, KvPut(1, "ab", b"c", b"first"))
    kv.handle_put(ANN, KvPut(2, "a", b"bc", b"second"))
    assert sorted(value for _, value in storage.scan("kv")) == [b"first", b"second"]
    kv.handle_del(ANN, KvDel(3, "a", b"bc"))
    assert [value for _, value in storage.scan("kv")] == [b"first"]


def test_storage_scans_by_ascending_key_within_a_prefix(storage: MemoryStorage) -> None:
    for key in (b"p2", b"q", b"p1"):
        storage.put("t", key, b"")
    assert [key for key, _ in storage.scan("t", b"p")] == [b"p1", b"p2"]
    assert storage.get("other", b"q") is None
    assert storage.delete("t", b"q")
    assert not storage.delete("t", b"q")
