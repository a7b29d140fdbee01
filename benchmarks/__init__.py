"""Beamlet and Ray side by side: the same workloads in one run, with ratios and floors (see `run.py`)."""
