"""Orbax, of whose log a line in a thousand is news."""

from __future__ import annotations

import logging

_TOLD_BY_WAIT = ("future.py", "async_checkpointer.py", "checkpoint_manager.py")


def _news(record: logging.LogRecord) -> bool:
    """Whether what orbax logs is worth a line: not that files are not of its usual format, as it
    warns at every save and load, and not, in a thousand lines, why a save failed, which `wait`
    raises."""
    if record.levelno >= logging.ERROR and "orbax" in record.pathname:
        record.exc_info = record.exc_text = None
        return record.filename not in _TOLD_BY_WAIT
    text = record.getMessage()
    return "merge of OCDBT" not in text and "TensorStore data files not found" not in text


def quiet() -> None:
    """Filters what orbax says from now on, through absl's logger and the root."""
    for name in ("absl", None):
        logging.getLogger(name).addFilter(_news)
