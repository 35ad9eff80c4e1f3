"""Benchmarks: races of omni's models against peers in one run on one machine, and a check of a GPU."""
