"""Runs: entry points, configs, figures and the report."""
