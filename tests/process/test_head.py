"""A real head, factory and forks, driven by a hand-made driver: leases, output, deaths, endings."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from beamlet.base.ids import ActorId, FunctionKey, TaskId, make_address
from beamlet.core_worker.node_link import FromRaylet
from beamlet.head.options import HeadOptions, HeadReady
from beamlet.processes.fate_sharing import children
from beamlet.processes.session import SessionDirectory, find_running
from beamlet.protocol import gcs, node, peer
from beamlet.rpc.auth import HandshakeError
from beamlet.rpc.connection import Connection
from beamlet.rpc.listener import connect
from beamlet.rpc.reactor import Reactor
from support.waiting import wait_until

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src"
PATIENCE_S = 15.0
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


class Driver:
    """Speaks the protocol by hand."""

    def __init__(self, session: SessionDirectory, owns: bool = True) -> None:
        self.reactor = Reactor()
        self.got: list[Any] = []
        self.results: list[Any] = []
        self.closed = ""
        self.left = False
        self.link = Connection(
            connect(str(session.socket), session.secret()),
            self.reactor,
            messages=FromRaylet,
            on_message=self._on_message,
            on_close=self._on_close,
            carries_fds=True,
        )
        self.link.send(
            node.DriverHello(
                *(os.getpid(), PYTHON, "test", "ns", "test", [], b"", b"", {}, False, True), owns_cluster=owns
            )
        )
        self.workers: dict[bytes, Connection] = {}
        self.welcome = self.expect(node.Welcome)

    def _on_message(self, link: Connection, message: Any) -> None:
        if isinstance(message, node.Welcome):
            for _ in range(2):
                os.close(link.take_fd())
        elif isinstance(message, node.LeaseGranted) and message.fresh:
            self.workers[message.worker] = Connection(
                socket.socket(fileno=link.take_fd()),
                self.reactor,
                messages=peer.PeerMessage,
                on_message=lambda _, result: self.results.append(result),
                on_close=lambda *_: None,
            )
        self.got.append(message)

    def _on_close(self, _: Connection, reason: str) -> None:
        self.closed = reason

    def until(self, happened: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while not (found := happened()):
            assert time.monotonic() < deadline, f"waited in vain; got {self.got}"
            self.reactor.run_once(0.2)
        return found

    def expect(self, kind: type) -> Any:
        found = self.until(lambda: [message for message in self.got if isinstance(message, kind)])[0]
        self.got.remove(found)
        return found

    def lease(self, req: int, cpus: float = 1) -> node.LeaseGranted:
        self.link.send(node.RequestLease(req, {"CPU": round(cpus * 10_000)}, f"f{req}"))
        granted = self.expect(node.LeaseGranted)
        assert granted.req == req
        return granted

    def push(self, lease: node.LeaseGranted, name: str) -> None:
        task = peer.PushTask(7, TaskId(b"t" * 24), FunctionKey(b"f"), name, 1, b"")
        self.workers[lease.worker].send(task)

    def run(self, lease: node.LeaseGranted, name: str = "pid") -> bytes:
        self.push(lease, name)
        result = self.until(lambda: self.results)[0]
        self.results.clear()
        assert isinstance(result, peer.Result)
        return result.payload

    def close(self) -> None:
        if self.left:
            return
        self.left = True
        for connection in (*self.workers.values(), self.link):
            connection.close()
        self.reactor.close()


class Cluster:
    def __init__(self, root: Path, **options: Any) -> None:
        self.session = SessionDirectory.create(root)
        chosen = {
            "session_dir": str(self.session.path),
            "resources": {"CPU": 2.0},
            "object_store_bytes": 1 << 24,
            "node_ip": "127.0.0.1",
            "hostname": "here",
            "version": "test",
            "worker_main": "scripted_worker:main",
            "validate": True,
            "lock_fd": self.session.lock.fd if self.session.lock else -1,
            **options,
        }
        argument = msgspec.json.encode(msgspec.convert(chosen, HeadOptions)).decode()
        self.head = subprocess.Popen(
            [sys.executable, "-m", "beamlet.head", argument],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": f"{SOURCE}:{HERE}", "BEAMLET_SESSION": self.session.marker},
            start_new_session=True,
            pass_fds=[self.session.lock.fd] if self.session.lock else [],
        )
        self.session.let_go()
        assert self.head.stdout is not None
        self.ready = msgspec.json.decode(self.head.stdout.readline(), type=HeadReady)
        assert not self.ready.error
        self.driver = Driver(self.session)
        self.head.stdout.close()  # closed before anyone joined, it would tell the head that we are gone

    def processes(self) -> list[int]:
        """Every living process of the session, by its mark."""
        wanted = f"BEAMLET_SESSION={self.session.marker}".encode()
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    environ = Path(f"/proc/{entry}/environ").read_bytes()
                except OSError:
                    continue
                if wanted in environ.split(b"\0"):
                    found.append(int(entry))
        return found

    def log(self) -> str:
        return (self.session.logs / "head.log").read_text()

    def assert_all_gone(self) -> None:
        self.head.wait(PATIENCE_S)
        assert self.processes() == []
        assert not self.session.socket.exists()


def factory_of(cluster: Cluster) -> int:
    (factory,) = children(cluster.head.pid)
    return factory


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path / "root")
    yield cluster
    cluster.driver.close()
    cluster.assert_all_gone()


def test_leases_come_with_a_connection_to_a_worker_that_is_used_again(cluster: Cluster) -> None:
    driver = cluster.driver
    first = driver.lease(1)
    assert driver.run(first) == str(first.pid).encode()
    driver.link.send(node.ReturnLease(first.lease))
    again = driver.lease(2)
    assert (again.worker, again.fresh) == (first.worker, False)
    other = driver.lease(3)
    assert (other.worker != again.worker, other.fresh) == (True, True)
    driver.link.send(node.RequestLease(4, {"CPU": 10_000}, "f4"))
    driver.expect(node.LeaseWanted)
    driver.link.send(node.ReturnLease(other.lease))
    assert driver.expect(node.LeaseGranted).req == 4


def test_output_is_whole_named_and_there_before_the_result(cluster: Cluster) -> None:
    driver = cluster.driver
    lease = driver.lease(1)
    driver.push(lease, "print:hello")
    first = driver.expect(node.OutputLines)
    assert (first.name, first.pid, first.data) == ("print:hello", lease.pid, b"hello\n")
    assert driver.expect(node.OutputLines).data == b"no newline\n"
    mark = driver.expect(node.OutputLines)
    assert mark.token
    assert driver.results == []
    driver.link.send(node.OutputPrinted(mark.token))
    assert driver.until(lambda: driver.results)[0].payload == b"printed"
    name = f"worker-*-{driver.welcome.job_id.hex()}-{lease.pid}.out"
    driver.until(lambda: list(cluster.session.logs.glob(name)))
    (log,) = cluster.session.logs.glob(name)
    driver.until(lambda: log.read_bytes() == b"hello\nno newline\n")


def test_a_death_names_code_or_signal_and_last_words(cluster: Cluster) -> None:
    driver = cluster.driver
    driver.push(driver.lease(1), "exit:3")
    death = driver.expect(node.WorkerDied)
    assert (death.certificate.exit_code, death.certificate.last_words) == (3, ("goodbye, world",))
    lease = driver.lease(2)
    driver.push(lease, f"kill:{signal.SIGSEGV}")
    certificate = driver.expect(node.WorkerDied).certificate
    assert (certificate.pid, certificate.signal, certificate.killed_by) == (lease.pid, signal.SIGSEGV, "")
    driver.link.send(node.ConnectPeer(9, lease.worker))
    assert driver.expect(node.PeerUnreachable).certificate == certificate


def test_the_cluster_can_be_asked_what_it_has_and_who_waits(cluster: Cluster) -> None:
    driver = cluster.driver
    driver.lease(1, cpus=2)
    driver.link.send(node.RequestLease(2, {"CPU": 10_000}, "waiter"))
    driver.link.send(gcs.QueryCluster(5))
    state = driver.expect(gcs.ClusterState)
    assert (state.nodes[0].total["CPU"], state.nodes[0].available["CPU"]) == (20_000, 0)
    assert state.pending == [("{'CPU': 1}", 1, "all 2 CPUs are held: task f1 ×1")]
    driver.link.send(node.WhyPending(6))
    (reason,) = driver.expect(node.WhyPendingAnswer).reasons
    assert reason.startswith("task waiter has waited 0 s: all 2 CPUs are held")


def test_objects_are_created_sealed_pinned_and_missed(cluster: Cluster) -> None:
    driver = cluster.driver
    driver.link.send(node.CreateObject(1, b"o" * 28, 1000, "here.py:1"))
    assert driver.expect(node.ObjectCreated).offset >= 0
    driver.link.send(node.SealObject(b"o" * 28))
    driver.link.send(node.PinObject(2, b"o" * 28, b"", []))
    assert driver.expect(node.ObjectPinned).size == 1000
    driver.link.send(node.PinObject(3, b"p" * 28, b"", []))
    assert driver.expect(node.ObjectNotHere).req == 3


def test_an_actor_is_placed_lives_and_is_killed(cluster: Cluster) -> None:
    driver = cluster.driver
    welcome = driver.welcome
    owner = make_address(welcome.node_id, welcome.worker_id)
    job = node.JobDescription(welcome.job_id, "ns", [], b"", b"", {}, False, owner)
    actor = ActorId(b"a" * 12 + welcome.job_id)
    spec = gcs.ActorSpec(actor, job, owner, FunctionKey(b"k"), "H", b"", [], [], {"CPU": 10_000}, {})
    driver.lease(1)
    driver.lease(2)
    driver.link.send(gcs.CreateActor(3, spec))
    driver.link.send(gcs.SubscribeActor(actor))
    driver.expect(gcs.ActorAccepted)
    alive = driver.until(
        lambda: [m for m in driver.got if isinstance(m, gcs.ActorUpdate) and m.state == "ALIVE"]
    )
    driver.link.send(gcs.QueryCluster(5))
    state = driver.expect(gcs.ClusterState)
    assert sorted(worker.state for worker in state.workers) == ["actor", "leased", "leased"]
    driver.link.send(gcs.KillActor(6, actor, no_restart=True))
    driver.until(lambda: [m for m in driver.got if isinstance(m, gcs.ActorUpdate) and m.state == "DEAD"])
    driver.link.send(node.ConnectPeer(7, alive[0].address))
    answer = driver.until(
        lambda: [m for m in driver.got if isinstance(m, node.PeerConnected | node.PeerUnreachable)]
    )
    assert answer


def test_an_infeasible_actor_and_task_are_refused_with_the_numbers(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "root", infeasible_grace_s=0.0)
    driver = cluster.driver
    driver.link.send(node.RequestLease(1, {"CPU": 80_000}, "f"))
    assert "largest node has {'CPU': 2}" in driver.expect(node.LeaseInfeasible).reason
    driver.link.send(node.RequestLease(2, {"gizmo": 10_000}, "f"))
    assert "no node offers 'gizmo'" in driver.expect(node.LeaseInfeasible).reason
    driver.close()
    cluster.assert_all_gone()


def test_when_the_factory_is_killed_the_cluster_ends_and_says_why(cluster: Cluster) -> None:
    lease = cluster.driver.lease(1)
    cluster.driver.push(lease, "hang:")
    os.kill(factory_of(cluster), signal.SIGKILL)
    assert "factory" in cluster.driver.expect(node.NodeEnds).reason
    cluster.driver.until(lambda: cluster.driver.closed)
    cluster.assert_all_gone()


def test_what_hid_from_every_sweep_ends_with_a_killed_factory(cluster: Cluster) -> None:
    hidden = int(cluster.driver.run(cluster.driver.lease(1), "escape"))
    assert hidden not in cluster.processes()
    os.kill(factory_of(cluster), signal.SIGKILL)
    cluster.assert_all_gone()
    assert not Path(f"/proc/{hidden}").exists()


def test_when_the_owners_connection_closes_nothing_lives_on_but_the_logs(cluster: Cluster) -> None:
    """Its process lives on: somebody may want to read why."""
    cluster.driver.push(cluster.driver.lease(1), "hang:")
    cluster.driver.reactor.flush()
    cluster.driver.close()
    cluster.assert_all_gone()
    assert "is gone" in cluster.log()


def test_drivers_hear_which_modules_were_not_preloaded_and_why_the_node_ends(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "root", preload=["no_such_module"])
    cluster.driver.expect(node.Notice)
    late = Driver(cluster.session, owns=False)
    text = late.expect(node.Notice).text
    assert text.startswith("no_such_module was not preloaded, each worker imports it itself: it does not")
    cluster.head.terminate()
    for driver in (cluster.driver, late):
        assert "told to end (SIGTERM" in driver.expect(node.NodeEnds).reason
        driver.close()
    cluster.assert_all_gone()
    assert cluster.log(), "it is kept: errors of those who were left name it"


def test_a_session_removed_under_its_head_is_made_again(cluster: Cluster) -> None:
    root = cluster.session.path.parent
    shutil.rmtree(root)
    notice = cluster.driver.expect(node.Notice).text
    assert str(cluster.session.path) in notice
    assert "removed (., logs, secret, socket, session.json, lock)" in notice
    visitor = Driver(cluster.session, owns=False)
    assert visitor.welcome.session_dir == str(cluster.session.path)
    assert [found.path for found in find_running(root)] == [cluster.session.path]
    visitor.close()
    cluster.driver.link.send(node.Goodbye())
    cluster.driver.until(lambda: cluster.driver.closed)
    cluster.assert_all_gone()
    assert not cluster.session.is_alive()


def test_a_log_removed_under_its_head_is_made_again(cluster: Cluster) -> None:
    """A cleaner takes old files and leaves their directory: the head wrote on into what nobody could read."""
    (cluster.session.logs / "head.log").unlink()
    cluster.head.terminate()
    cluster.driver.until(lambda: cluster.driver.closed)
    cluster.driver.close()
    cluster.assert_all_gone()
    assert "ends: the cluster was told to end (SIGTERM" in cluster.log()


def test_a_parent_that_ignores_and_blocks_signals_changes_nothing(tmp_path: Path) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD])
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        cluster = Cluster(tmp_path / "root")
    finally:
        signal.signal(signal.SIGCHLD, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGCHLD])
    cluster.driver.run(cluster.driver.lease(1))
    cluster.head.send_signal(signal.SIGTERM)
    assert cluster.head.wait(PATIENCE_S) == 0
    cluster.driver.close()
    cluster.assert_all_gone()


def test_goodbye_ends_all_and_the_connection_closes_last(cluster: Cluster) -> None:
    cluster.driver.push(cluster.driver.lease(1), "hang:")
    cluster.driver.link.send(node.Goodbye())
    cluster.driver.until(lambda: cluster.driver.closed)
    cluster.assert_all_gone()
    assert not cluster.session.path.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_head_in_order(cluster: Cluster, number: signal.Signals) -> None:
    cluster.driver.push(cluster.driver.lease(1), "hang:")
    cluster.head.send_signal(number)
    assert cluster.head.wait(PATIENCE_S) == 0
    cluster.assert_all_gone()


def test_when_the_head_is_killed_nothing_lives_on(cluster: Cluster) -> None:
    cluster.driver.push(cluster.driver.lease(1), "hang:")
    cluster.driver.reactor.flush()
    cluster.head.kill()
    cluster.head.wait(PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while cluster.processes():
        assert time.monotonic() < deadline, "processes outlived their head"
        time.sleep(0.01)
    cluster.session.disarm()


def test_a_stranger_gets_nothing_and_harms_nobody(cluster: Cluster) -> None:
    with pytest.raises((HandshakeError, OSError)):
        connect(str(cluster.session.socket), b"x" * 32)
    assert cluster.driver.lease(1).pid


def test_a_driver_of_another_python_is_told_why_it_cannot_join(cluster: Cluster) -> None:
    visitor = Connection(
        connect(str(cluster.session.socket), cluster.session.secret()),
        cluster.driver.reactor,
        messages=FromRaylet,
        on_message=lambda _, message: cluster.driver.got.append(message),
        on_close=lambda *_: None,
        carries_fds=True,
    )
    visitor.send(
        node.DriverHello(1, "2.7", "test", "", "", [], b"", b"", {}, False, True, owns_cluster=False)
    )
    assert "Python 2.7" in cluster.driver.expect(node.Refused).reason
    visitor.close()


def test_a_second_driver_leaves_without_ending_the_cluster(cluster: Cluster) -> None:
    second = Driver(cluster.session, owns=False)
    lease = second.lease(1)
    second.link.send(node.Goodbye())
    second.until(lambda: second.closed)
    second.close()
    assert cluster.driver.lease(1).worker != lease.worker


def test_what_a_driver_says_after_goodbye_is_ignored(cluster: Cluster) -> None:
    """Its job's description was gone by then: the grant ended the head."""
    second = Driver(cluster.session, owns=False)
    second.link.send(node.Goodbye())
    for req in range(3):
        second.link.send(node.RequestLease(req, {"CPU": 10_000}, "late"))
    second.until(lambda: second.closed)
    second.close()
    assert cluster.driver.lease(1, cpus=2).pid, "nothing is lent to the gone"


def test_a_misbehaving_driver_loses_its_connection_only(cluster: Cluster) -> None:
    second = Driver(cluster.session, owns=False)
    for _ in range(2):
        second.link.send(node.RequestLease(1, {"CPU": 90_000}, "f"))
    second.until(lambda: second.closed)
    second.close()
    assert cluster.driver.lease(1).pid
    wait_until(lambda: "asked twice" in cluster.log(), PATIENCE_S, "the log says why")
