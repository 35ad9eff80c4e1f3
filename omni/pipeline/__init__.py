"""Chains: all stages of a model by one command, each as a run of its own."""
