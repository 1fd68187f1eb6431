"""Warmup-Stable-Decay in JAX: train under it, branch anywhere, probe the loss landscape."""

__version__ = "0.1.0"
