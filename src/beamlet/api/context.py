"""What ``init()`` returns: where we are connected, and ``with init(): …``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from beamlet.base.version import VERSION

if TYPE_CHECKING:
    from beamlet.core_worker.core_worker import Identity


class ClusterContext(Mapping[str, Any]):
    """Facts about the cluster; as a context manager it shuts down at the end.

    The mapping interface is Ray's older one: use ``address_info``.
    """

    def __init__(self, identity: Identity, address: str) -> None:
        self.session_dir = identity.session_dir
        self.namespace = identity.namespace
        self.dashboard_url = ""
        self.python_version = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
        self.ray_version = self.version = VERSION
        self.ray_commit = ""
        self.address_info: dict[str, Any] = {
            "node_ip_address": identity.node_ip,
            "redis_address": None,
            "object_store_address": None,
            "raylet_socket_name": address,
            "webui_url": "",
            "session_dir": identity.session_dir,
            "metrics_export_port": None,
            "gcs_address": address,
            "address": address,
            "dashboard_agent_listen_port": None,
            "node_id": identity.node_id.hex(),
        }

    def __enter__(self) -> ClusterContext:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.disconnect()

    def disconnect(self) -> None:
        """Same as ``beamlet.shutdown()``."""
        from beamlet.api.init import shutdown

        shutdown()

    def __getitem__(self, key: str) -> Any:
        text = f'Accessing values through ctx["{key}"] is deprecated. Use ctx.address_info["{key}"] instead.'
        warnings.warn(text,
                      DeprecationWarning, stacklevel=2)  # fmt: skip
        return self.address_info[key]

    def __len__(self) -> int:
        return len(self.address_info)

    def __iter__(self) -> Iterator[str]:
        return iter(self.address_info)

    def __repr__(self) -> str:
        return f"ClusterContext(session_dir={self.session_dir!r}, version={self.version!r})"
