"""Functions of 90 MB that several workers export at once: each is allowed, so all of them must work."""

from __future__ import annotations

from pathlib import Path

from conformance import beamlet_only, run_script

pytestmark = beamlet_only


def test_workers_that_export_large_functions_at_once_all_live(tmp_path: Path) -> None:
    """Their unfinished messages took more than a head allows: 2 to 4 of 6 were killed, "from outside"."""
    run_script(
        tmp_path / "program.py",
        """
        import os

        ray.init(num_cpus=6, logging_level="ERROR")

        @ray.remote(num_cpus=0)
        class Exporter:
            def prepare(self):
                self.data = os.urandom(1 << 20) * 90

            def export(self):
                data = self.data
                inner = ray.remote(num_cpus=0)(lambda: len(data))
                return ray.get(inner.remote(), timeout=40)

        exporters = [Exporter.remote() for _ in range(6)]
        ray.get([each.prepare.remote() for each in exporters])
        found = ray.get([each.export.remote() for each in exporters], timeout=50)
        assert found == [90 << 20] * 6
        """,
        timeout_s=60,
    )
