"""Files that are whole whenever the process is killed."""

import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """The file has the old text or the new, whenever the process is killed."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
