"""A workdir in tables, figures and a page."""

from pathlib import Path


def report(workdir: str | Path) -> str:
    """`experiments.report.write.write_report`, which is imported in this call: what draws takes a
    second to come in, and a command has other things to do first."""
    from experiments.report.write import write_report

    return write_report(workdir)
