"""Beamlet."""
