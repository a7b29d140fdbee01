"""What a process says that lost its cluster: it points to a log only while there is one."""

from __future__ import annotations

import pickle
from pathlib import Path

from beamlet.core_worker.node_link import RayletGone


def test_it_points_to_the_log_that_is_there(tmp_path: Path) -> None:
    error = RayletGone("closed by the other side", str(tmp_path))
    assert "it ended in order, as with `beamlet stop`, and its logs were removed" in str(error)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "head.log").touch()
    assert f"{tmp_path}/logs/head.log may say why" in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
