"""Sweeps: trials of a configuration with different values, and what they have shown."""

from omni.sweeps.ranking import load as load
