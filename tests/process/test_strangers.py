"""Who comes to a node's socket without business there: refused, counted, and nobody else notices."""

from __future__ import annotations

import os
import random
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import psutil
import pytest
from conformance import beamlet_only, get, run_script, wait_until

import beamlet as ray
from beamlet.api.init import session_path
from beamlet.base.version import VERSION
from beamlet.processes.session import SessionDirectory
from beamlet.protocol import node
from beamlet.raylet.members import FromCoreWorker
from beamlet.rpc.auth import MAGIC, ClientHandshake, HandshakeError
from beamlet.rpc.connection import encode_frame
from beamlet.rpc.framing import PREFIX
from beamlet.rpc.listener import HANDSHAKE_TIMEOUT_S, MAX_STRANGERS, connect

pytestmark = [beamlet_only, pytest.mark.usefixtures("cluster")]

HELLO = node.DriverHello(
    pid=os.getpid(), python=f"3.{sys.version_info[1]}", version=VERSION, namespace="fuzz",
    entrypoint="", sys_path=[], cwd=b"/", script_dir=b"/", env_vars={}, strict_arrays=False,
    log_to_driver=False, owns_cluster=False,
)  # fmt: skip


@pytest.fixture
def session() -> SessionDirectory:
    path = session_path()
    assert path is not None
    return SessionDirectory(path)


@pytest.fixture(autouse=True)
def cluster_goes_on() -> Iterator[None]:
    """Before and after what the stranger did, tasks run."""
    assert get(ray.remote(lambda: "before").remote()) == "before"
    yield
    assert get(ray.remote(lambda: "after").remote()) == "after"


def head_of(session: SessionDirectory) -> psutil.Process:
    info = session.info()
    assert info is not None
    return psutil.Process(info.pid)


def visit(session: SessionDirectory) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(session.socket))
    sock.settimeout(10.0)
    return sock


def is_shown_out(sock: socket.socket, within_s: float = 2.0) -> bool:
    """The other side closes, saying nothing more than a challenge."""
    sock.settimeout(within_s)
    try:
        while data := sock.recv(4096):
            assert len(data) <= 64
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


def log_of(session: SessionDirectory) -> str:
    return (session.logs / "head.log").read_text()


# -- before the proof ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\0" * 40,
        os.urandom(64),
        b"\xff" * 5000,
        MAGIC + b"n" * 32 + b"not a proof, but as long as one..",
    ],
    ids=["http", "zeros", "noise", "much", "false proof"],
)
def test_a_stranger_is_shown_out_and_counted(session: SessionDirectory, words: bytes) -> None:
    with visit(session) as sock:
        sock.sendall(words)
        assert is_shown_out(sock)
    wait_until(
        lambda: "refused a connection (1 so far)" in log_of(session),
        "the log, written by a thread, tells of it",
    )


def test_a_wrong_secret_opens_nothing(session: SessionDirectory) -> None:
    with pytest.raises(HandshakeError, match="secret"):
        connect(str(session.socket), b"w" * 32)


def test_a_reflected_challenge_is_no_proof(session: SessionDirectory) -> None:
    with visit(session) as sock:
        sock.sendall(ClientHandshake(b"?" * 32).hello())
        challenge = sock.recv(64)
        sock.sendall(challenge[32:])
        assert is_shown_out(sock)


def test_the_slow_and_the_silent_are_shown_out_in_time(session: SessionDirectory) -> None:
    with visit(session) as silent, visit(session) as slow:
        for byte in MAGIC:
            slow.send(bytes([byte]))
        assert is_shown_out(silent, 2 * HANDSHAKE_TIMEOUT_S)
        assert is_shown_out(slow, 2 * HANDSHAKE_TIMEOUT_S)


def test_a_flood_costs_bounded_memory_and_descriptors(session: SessionDirectory) -> None:
    head = head_of(session)
    fds, memory = head.num_fds(), head.memory_info().rss
    visitors = []
    try:
        for _ in range(6 * MAX_STRANGERS):
            visitors.append(visit(session))  # noqa: PERF401  those before a failure are closed below
        assert get(ray.remote(lambda: "meanwhile").remote()) == "meanwhile"
        assert head.num_fds() <= fds + MAX_STRANGERS + 10
        assert head.memory_info().rss < memory + (16 << 20)
    finally:
        for sock in visitors:
            sock.close()
    wait_until(lambda: head.num_fds() <= fds + 4, "the visitors' descriptors to be given back")
    wait_until(lambda: "refused" in log_of(session), "the log, written by a thread, tells of it")


# -- after the proof -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        PREFIX.pack(0xFFFF_FFFF, 0, 0),
        PREFIX.pack(10, 10, 0) + b"x" * 20,
        PREFIX.pack(5, 0, 0) + b"hello",
        PREFIX.pack(2, 0, 0) + b"\x91\x90",
        encode_frame([node.WorkerReady(b"w" * 28, 1)]),  # type: ignore[arg-type]
    ],
    ids=["oversized", "payload", "no msgpack", "no message", "no hello"],
)
def test_nonsense_after_the_proof_closes_the_connection(session: SessionDirectory, words: bytes) -> None:
    with connect(str(session.socket), session.secret()) as sock:
        sock.sendall(words)
        assert is_shown_out(sock)


def test_a_frame_that_never_ends_costs_what_was_sent(session: SessionDirectory) -> None:
    head = head_of(session)
    memory = head.memory_info().rss
    with connect(str(session.socket), session.secret()) as sock:
        sock.sendall(PREFIX.pack(4 << 20, 0, 0) + b"x" * 1000)
        assert get(ray.remote(lambda: "meanwhile").remote()) == "meanwhile"
        assert head.memory_info().rss < memory + (8 << 20)


@pytest.mark.parametrize("seed", range(int(os.environ.get("FUZZ_SEEDS", "10"))))
def test_no_words_of_a_proven_driver_harm_the_others(session: SessionDirectory, seed: int) -> None:
    """Every kind of message, its fields at random: answered, ignored, or the end of that one connection."""
    chance = random.Random(seed)
    kinds = [kind for kind in get_args(FromCoreWorker) if kind is not node.DriverHello]
    chance.shuffle(kinds)
    while kinds:
        with join(session) as sock:
            while kinds and says(sock, any_value(kinds.pop(), chance)):
                continue
    assert get(ray.remote(lambda: "meanwhile").remote()) == "meanwhile"
    assert "Traceback" not in log_of(session)
    total = ray.cluster_resources()
    assert all(amount <= total.get(name, 0) for name, amount in ray.available_resources().items())


def join(session: SessionDirectory) -> socket.socket:
    sock = connect(str(session.socket), session.secret())
    sock.sendall(encode_frame([HELLO]))
    sock.settimeout(10.0)
    hear(sock)
    return sock


def says(sock: socket.socket, message: Any) -> bool:
    """Whether the connection is still there when the message has been handled."""
    try:
        sock.sendall(encode_frame([message]))
        sock.sendall(encode_frame([node.WhyPending(4242)]))
        while data := hear(sock):
            if b"\xcd\x10\x92" in data:  # our number in an answer
                return True
    except ConnectionError:
        return False
    return False


def hear(sock: socket.socket) -> bytes:
    data, fds, _, _ = socket.recv_fds(sock, 1 << 16, 8)
    for fd in fds:
        os.close(fd)
    return data


def any_value(kind: Any, chance: random.Random) -> Any:
    return _any(msgspec.inspect.type_info(kind), chance)


def _any(info: Any, chance: random.Random) -> Any:
    match info:
        case msgspec.inspect.StructType():
            return info.cls(*(_any(field.type, chance) for field in info.fields))
        case msgspec.inspect.IntType():
            return chance.choice([0, 1, -1, 7, 1 << 40, -(1 << 62), chance.getrandbits(16)])
        case msgspec.inspect.FloatType():
            return chance.choice([0.0, -1.0, 1e300])
        case msgspec.inspect.BoolType():
            return chance.random() < 0.5
        case msgspec.inspect.StrType():
            return chance.choice(["", "x", "CPU", "node:zz", "ä" * 1000, "DEFAULT"])
        case msgspec.inspect.BytesType():
            return chance.randbytes(chance.choice([0, 1, 4, 16, 24, 28, 44, 56, 100]))
        case msgspec.inspect.ListType():
            return [_any(info.item_type, chance) for _ in range(chance.randrange(4))]
        case msgspec.inspect.VarTupleType():
            return tuple(_any(info.item_type, chance) for _ in range(chance.randrange(4)))
        case msgspec.inspect.TupleType():
            return tuple(_any(item, chance) for item in info.item_types)
        case msgspec.inspect.DictType():
            return {_any(info.key_type, chance): _any(info.value_type, chance) for _ in range(2)}
        case msgspec.inspect.UnionType():
            return _any(chance.choice(info.types), chance)
        case msgspec.inspect.NoneType():
            return None
    raise AssertionError(f"no random values for {info}")


# -- doors ---------------------------------------------------------------------------------------

DOORS = """
import os, sys
os.umask(0)
ray.init(num_cpus=1)

@ray.remote
def speak():
    print("so that there is a log")

ray.get(speak.remote())
from beamlet.api.init import session_path
root = session_path()
for path in [root.parent, root, *root.rglob("*")]:
    print("MODE", oct(path.lstat().st_mode), path)
"""


def test_everything_is_private_whatever_the_umask(tmp_path: Path) -> None:
    out = run_script(tmp_path / "p.py", DOORS, BEAMLET_TMPDIR=str(tmp_path / "root"))
    found = [line.split(" ", 2)[1:] for line in out.splitlines() if line.startswith("MODE ")]
    assert len(found) >= 7
    for mode, path in found:
        wanted = 0o700 if stat.S_ISDIR(int(mode, 8)) else 0o600
        assert stat.S_IMODE(int(mode, 8)) == wanted, f"{path} has mode {mode}"


def test_nothing_listens_on_the_network(session: SessionDirectory) -> None:
    head = head_of(session)
    inodes = set()
    for process in [psutil.Process(), head, *head.children(recursive=True)]:
        for fd in Path(f"/proc/{process.pid}/fd").iterdir():
            try:
                inodes.add(os.readlink(fd).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            assert line.split()[9] not in inodes, f"{table} socket of ours: {line}"
