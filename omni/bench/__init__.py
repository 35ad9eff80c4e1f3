"""Races against peers, both in one run on the same machine."""
