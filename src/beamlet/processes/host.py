"""What this machine, or the container we are in, offers: CPUs, memory, GPUs, address.

Every limit the kernel keeps is asked, the tightest one counts: CPU affinity, cpusets and quotas; physical
memory, memory cgroups, RLIMIT_AS, RLIMIT_FSIZE. All reads go below a ``root``, so that tests can bring their
own machine.
Nothing is sent over a network, and psutil is not needed for what /proc says.

Not here: what a node then offers of it (num_cpus=… in init overrides), and how much is in use (raylet).
"""

from __future__ import annotations

import math
import os
import re
import resource
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from beamlet.base.wire_text import wire_text

_MIB = 1 << 20
#: The part of available memory that objects may take, unless a setting says otherwise.
OBJECT_STORE_SHARE = 0.3
OBJECT_STORE_MIN_BYTES = 75 * _MIB
#: Bytes, exactly; bytes, at most; a part of available memory other than OBJECT_STORE_SHARE.
_EXACT_SETTINGS = ("BEAMLET_OBJECT_STORE_MEMORY", "RAY_OBJECT_STORE_MEMORY")
_MOST_SETTINGS = ("BEAMLET_OBJECT_STORE_MAX_MEMORY", "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES")
_SHARE_SETTINGS = ("BEAMLET_OBJECT_STORE_SHARE", "RAY_DEFAULT_OBJECT_STORE_MEMORY_PROPORTION")
_MAX_FDS = 65_536
#: cgroup v1 writes "no limit" as the largest page-aligned number.
_NO_LIMIT = 1 << 60


class HostResources(msgspec.Struct, frozen=True):
    #: Whole CPUs we may keep busy, at least 1; a quota of 2.5 counts as 2, as in Ray.
    cpus: int
    #: The tightest limit on our memory, used or not.
    memory_bytes: int
    object_store_bytes: int
    gpus: int
    ip: str
    hostname: str


def detect(root: Path = Path("/"), env: Mapping[str, str] | None = None) -> HostResources:
    """Ask the machine below ``root``. ``env``: default os.environ."""
    env = os.environ if env is None else env
    return HostResources(
        cpus=count_cpus(root),
        memory_bytes=memory_limit(root),
        object_store_bytes=object_store_size(root, env),
        gpus=count_gpus(root, env),
        ip=node_ip(),
        hostname=wire_text(socket.gethostname()),
    )


# -- CPUs ----------------------------------------------------------------------------------------


def count_cpus(root: Path = Path("/")) -> int:
    """CPUs that our affinity, cpuset and quota all allow us."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    limits = [allowed, *(math.floor(quota) for quota in _cpu_quotas(root)), *_cpusets(root)]
    return max(1, min(limits))


def _cpu_quotas(root: Path) -> Iterator[float]:
    for group in cgroup_directories(root, "cpu"):
        quota, _, period = _read(group / "cpu.max").partition(" ")
        if not quota:
            quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
        if quota not in ("", "max", "-1") and period:
            yield int(quota) / int(period)


def _cpusets(root: Path) -> Iterator[int]:
    for group in cgroup_directories(root, "cpuset"):
        for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
            if listed := _read(group / name):
                yield _count_list(listed)
                break


def _count_list(listed: str) -> int:
    """'0-3,8' → 5."""
    count = 0
    for part in listed.split(","):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return count


# -- memory --------------------------------------------------------------------------------------


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes we could ever have: the machine's, the tightest cgroup's or RLIMIT_AS."""
    limits = [_meminfo(root).get("MemTotal", 0) or _physical_memory(), *_memory_cgroups(root)]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    return min(limits)


def available_memory(root: Path = Path("/")) -> int:
    """Bytes free to be taken now, within every limit."""
    free = [_meminfo(root).get("MemAvailable", 0) or memory_limit(root)]
    free += [
        max(0, limit - _memory_cgroup_used(group))
        for group in cgroup_directories(root, "memory")
        if (limit := _memory_cgroup_limit(group)) is not None
    ]
    return min(*free, memory_limit(root))


def object_store_size(root: Path, env: Mapping[str, str]) -> int:
    """As set in the environment, else a share of the memory available now, if a file may have so much."""
    if (exact := _setting(env, _EXACT_SETTINGS)) is not None:
        name, size = exact
        if size < OBJECT_STORE_MIN_BYTES:
            raise ValueError(
                f"{name}={env[name]!r} asks for an object store of {size:.0f} bytes; the least is "
                f"{OBJECT_STORE_MIN_BYTES} ({OBJECT_STORE_MIN_BYTES // _MIB} MiB). The unit is bytes."
            )
        return int(size)
    share = _setting(env, _SHARE_SETTINGS) or ("", OBJECT_STORE_SHARE)
    most = _setting(env, _MOST_SETTINGS) or ("", math.inf)
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)  # it is a file, in memory
    largest = math.inf if soft == resource.RLIM_INFINITY else soft
    return max(OBJECT_STORE_MIN_BYTES, int(min(available_memory(root) * share[1], most[1], largest)))


def _setting(env: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, float] | None:
    """The first of ``names`` that is set, and its value."""
    for name in names:
        if text := env.get(name):
            try:
                value = float(text)
            except ValueError:
                value = math.nan
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={text!r} is not a number (for example 2000000000, 2e9 or 0.3)")
            return name, value
    return None


def _memory_cgroups(root: Path) -> Iterator[int]:
    for group in cgroup_directories(root, "memory"):
        if (limit := _memory_cgroup_limit(group)) is not None:
            yield limit


def _memory_cgroup_limit(group: Path) -> int | None:
    text = _read(group / "memory.max") or _read(group / "memory.limit_in_bytes")
    if text in ("", "max", "-1") or int(text) >= _NO_LIMIT:
        return None
    return int(text)


def _memory_cgroup_used(group: Path) -> int:
    """Without the file cache, which gives way."""
    used = int(_read(group / "memory.current") or _read(group / "memory.usage_in_bytes") or 0)
    for line in _read(group / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return max(0, used - int(value))
    return used


def _meminfo(root: Path) -> dict[str, int]:
    found = {}
    for line in _read(root / "proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        number, _, unit = rest.strip().partition(" ")
        found[name] = int(number) * (1024 if unit == "kB" else 1)
    return found


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# -- GPUs ----------------------------------------------------------------------------------------


def count_gpus(root: Path, env: Mapping[str, str]) -> int:
    """GPUs that the NVIDIA driver shows and CUDA_VISIBLE_DEVICES leaves us."""
    present = _gpus_present(root)
    visible = env.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    return len(_visible_devices(visible, present))


def _gpus_present(root: Path) -> int:
    try:
        return len(os.listdir(root / "proc/driver/nvidia/gpus"))
    except OSError:  # in a container /proc may be masked; the devices themselves are there
        pass
    try:
        return sum(bool(re.fullmatch(r"nvidia\d+", name)) for name in os.listdir(root / "dev"))
    except OSError:
        return 0


def _visible_devices(setting: str, present: int) -> list[str]:
    """CUDA's own rule: devices are listed up to the first entry that names none."""
    devices: list[str] = []
    for entry in setting.split(","):
        device = entry.strip()
        is_index = device.isdigit() and int(device) < present
        is_uuid = device.startswith(("GPU-", "MIG-")) and present > 0
        if not (is_index or is_uuid) or device in devices:
            break
        devices.append(device)
    return devices


# -- cgroups, network, descriptors ---------------------------------------------------------------


def cgroup_directories(root: Path, controller: str) -> Iterator[Path]:
    """Our control group for ``controller`` and all above it, in both versions; each may hold a limit."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup"
        if controllers:
            # "cpu,cpuacct" is usually mounted under that name, with links for each part.
            base = next((b for b in (base / controller, base / controllers) if b.is_dir()), base / controller)
        # In a container the path may be the host's, which is not visible here: then only the top exists.
        group = base / path.lstrip("/")
        while group.is_relative_to(base):
            yield group
            if group == base:
                break
            group = group.parent


def node_ip() -> str:
    """The address other hosts would see, by asking the routing table; 127.0.0.1 without a network."""
    # Connecting a datagram socket chooses a route and sends nothing. The addresses are documentation's.
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 9))
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return "127.0.0.1"


def raise_fd_limit(wanted: int = _MAX_FDS) -> int:
    """Let this process and its children open more files; returns the limit in force. Never lowers it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    target = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if target > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        return target
    return soft


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
