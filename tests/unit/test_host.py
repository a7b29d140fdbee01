"""Host detection against machines made of files: quotas, cpusets, limits, GPUs."""

from __future__ import annotations

import errno
import os
import resource
import socket
from pathlib import Path

import pytest

from beamlet.processes import host
from beamlet.processes.fork_failure import explain_fork_failure, explain_no_descriptors
from beamlet.processes.host import (
    OBJECT_STORE_MIN_BYTES,
    available_memory,
    count_cpus,
    count_gpus,
    detect,
    memory_limit,
    node_ip,
    object_store_size,
    raise_fd_limit,
)

GIB = 1 << 30


class Machine:
    """A root directory with the files a kernel would show."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/meminfo", f"MemTotal: {16 * GIB // 1024} kB\nMemAvailable: {10 * GIB // 1024} kB\n")

    def write(self, path: str, text: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def cgroup(self, text: str) -> None:
        self.write("proc/self/cgroup", text)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    return Machine(tmp_path)


# --- CPUs -----------------------------------------------------------------------------------------


def test_without_limits_the_affinity_counts(machine: Machine) -> None:
    assert count_cpus(machine.root) == 8


@pytest.mark.parametrize(
    ("maximum", "cpus"), [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 1), ("1000 100000", 1)]
)
def test_cgroup_v2_quota(machine: Machine, maximum: str, cpus: int) -> None:
    machine.cgroup("0::/box")
    machine.write("sys/fs/cgroup/box/cpu.max", maximum)
    assert count_cpus(machine.root) == cpus


def test_a_limit_on_a_parent_group_counts(machine: Machine) -> None:
    machine.cgroup("0::/slice/box")
    machine.write("sys/fs/cgroup/slice/box/cpu.max", "max 100000")
    machine.write("sys/fs/cgroup/slice/cpu.max", "300000 100000")
    assert count_cpus(machine.root) == 3


def test_a_container_sees_only_the_top(machine: Machine) -> None:
    """/proc/self/cgroup names the host's path, which is not mounted."""
    machine.cgroup("4:cpu,cpuacct:/docker/0123abcd\n0::/docker/0123abcd")
    machine.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", 400000)
    machine.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", 100000)
    assert count_cpus(machine.root) == 4


def test_cgroup_v1_without_quota(machine: Machine) -> None:
    machine.cgroup("1:cpu:/")
    machine.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", -1)
    machine.write("sys/fs/cgroup/cpu/cpu.cfs_period_us", 100000)
    assert count_cpus(machine.root) == 8


@pytest.mark.parametrize(("listed", "cpus"), [("0-2", 3), ("0,4-5", 3), ("7", 1), ("0-63", 8)])
def test_cpusets(machine: Machine, listed: str, cpus: int) -> None:
    machine.cgroup("0::/box")
    machine.write("sys/fs/cgroup/box/cpuset.cpus.effective", listed)
    assert count_cpus(machine.root) == cpus


# --- memory ---------------------------------------------------------------------------------------


def test_physical_memory_without_limits(machine: Machine) -> None:
    assert memory_limit(machine.root) == 16 * GIB
    assert available_memory(machine.root) == 10 * GIB


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_memory_cgroup_counts_and_its_file_cache_is_free(machine: Machine, version: int) -> None:
    if version == 2:
        machine.cgroup("0::/slice/box")
        top, names, stat = "sys/fs/cgroup", ("memory.max", "memory.current"), "inactive_file"
    else:
        machine.cgroup("4:memory:/slice/box")
        top, stat = "sys/fs/cgroup/memory", "total_inactive_file"
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    machine.write(f"{top}/slice/{names[0]}", 4 * GIB)
    machine.write(f"{top}/slice/{names[1]}", 2 * GIB)
    machine.write(f"{top}/slice/memory.stat", f"anon 5\n{stat} {GIB}")
    machine.write(f"{top}/slice/box/{names[0]}", "max" if version == 2 else 0x7FFFFFFFFFFFF000)
    assert memory_limit(machine.root) == 4 * GIB
    assert available_memory(machine.root) == 3 * GIB


def test_rlimit_as_counts(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (2 * GIB, resource.RLIM_INFINITY))
    assert memory_limit(machine.root) == 2 * GIB
    assert available_memory(machine.root) == 2 * GIB


@pytest.mark.parametrize(
    ("env", "size"),
    [
        ({}, 3 * GIB),
        ({"BEAMLET_OBJECT_STORE_MEMORY": "2e9"}, 2_000_000_000),
        ({"RAY_OBJECT_STORE_MEMORY": "2000000000"}, 2_000_000_000),
        ({"RAY_DEFAULT_OBJECT_STORE_MEMORY_PROPORTION": "0.5"}, 5 * GIB),
        ({"RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(GIB)}, GIB),
        ({"RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": "1"}, OBJECT_STORE_MIN_BYTES),
    ],
)
def test_the_size_of_the_object_store(machine: Machine, env: dict[str, str], size: int) -> None:
    assert object_store_size(machine.root, env) == size


@pytest.mark.parametrize("text", ["2GB", "nan", "-1", "inf", "100"])
def test_a_bad_size_names_the_variable(machine: Machine, text: str) -> None:
    with pytest.raises(ValueError, match=f"BEAMLET_OBJECT_STORE_MEMORY='{text}'"):
        object_store_size(machine.root, {"BEAMLET_OBJECT_STORE_MEMORY": text})


# --- GPUs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visible", "count"),
    [
        (None, 4),
        ("", 0),
        ("-1", 0),
        ("0,2", 2),
        ("3,9,1", 1),
        ("1,1", 1),
        ("GPU-8a,GPU-8b", 2),
        ("NoDevFiles", 0),
    ],
)
@pytest.mark.parametrize("shown_by", ["driver", "devices"])
def test_gpus(machine: Machine, visible: str | None, count: int, shown_by: str) -> None:
    for index in range(4):
        if shown_by == "driver":
            machine.write(f"proc/driver/nvidia/gpus/0000:0{index}:00.0/information", "")
        else:
            machine.write(f"dev/nvidia{index}", "")
    machine.write("dev/nvidiactl", "")
    machine.write("dev/nvidia-uvm", "")
    env = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert count_gpus(machine.root, env) == count


@pytest.mark.parametrize("visible", [None, "0,1", "GPU-8a"])
def test_no_gpus(machine: Machine, visible: str | None) -> None:
    assert count_gpus(machine.root, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}) == 0


# --- the rest -------------------------------------------------------------------------------------


def test_detect_on_the_machine_we_are_on() -> None:
    found = detect()
    assert 1 <= found.cpus <= (os.cpu_count() or 1)
    assert OBJECT_STORE_MIN_BYTES <= found.object_store_bytes <= found.memory_bytes
    assert found.hostname == socket.gethostname()


def test_a_host_may_have_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "h\udce9")
    assert detect().hostname == r"h\udce9"


def test_node_ip_is_one_of_ours_and_sends_nothing() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((node_ip(), 0))


def test_without_a_network_it_is_the_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoRoute(socket.socket):
        def connect(self, address: object) -> None:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(host.socket, "socket", NoRoute)
    assert node_ip() == "127.0.0.1"


@pytest.mark.parametrize(
    ("soft", "hard", "result"),
    [(100, 1000, 1000), (100, 100_000, 65_536), (70_000, 100_000, 70_000), (5, 5, 5)],
)
def test_raise_fd_limit(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, result: int) -> None:
    now = [soft, hard]
    monkeypatch.setattr(resource, "getrlimit", lambda which: tuple(now))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: now.__setitem__(slice(None), limits))
    assert raise_fd_limit() == result
    assert now == [result, hard]


def test_a_refused_fork_names_the_limits(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (512, resource.RLIM_INFINITY))
    machine.cgroup("0::/box")
    machine.write("sys/fs/cgroup/box/pids.max", 100)
    machine.write("sys/fs/cgroup/box/pids.current", 99)
    machine.write("proc/sys/kernel/pid_max", 32768)
    text = explain_fork_failure(
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), machine.root
    )
    for part in ("errno 11", "ulimit -u 512", "pids.max 100", "of which 99 are used", "pid_max 32768"):
        assert part in text
    machine.write("proc/sys/vm/overcommit_memory", 2)
    text = explain_fork_failure(OSError(errno.ENOMEM, "Cannot allocate memory"), machine.root)
    for part in ("errno 12", "overcommit_memory 2", "MemAvailable", "ulimit -v"):
        assert part in text


def test_too_many_open_files_come_with_the_limit_and_what_to_do() -> None:
    text = explain_no_descriptors("its output", OSError(errno.EMFILE, "Too many open files"))
    assert text.startswith("no descriptors for its output: Too many open files. The head may have ")
    assert f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]} open (ulimit -n)" in text
    assert "fewer actors" in text
    full = OSError(errno.ENFILE, "Too many open files in system")
    assert (
        explain_no_descriptors("its output", full)
        == "no descriptors for its output: Too many open files in system"
    )
