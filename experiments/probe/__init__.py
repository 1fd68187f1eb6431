"""Probes of the nodes of a run."""
