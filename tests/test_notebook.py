"""The notebook of probes runs as it stands, top to bottom."""

import nbformat
from helpers import ROOT
from nbclient import NotebookClient

NOTEBOOK = ROOT / "experiments" / "notebooks" / "probes.ipynb"


def test_the_notebook_runs(finished, monkeypatch):
    """On a reader's own model, then on a node of a run; it has figures and certified numbers."""
    monkeypatch.setenv("WORKDIR", str(finished))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 4
    said = "".join(output.get("text", "") for output in outputs)
    assert "converged: [ True  True  True]" in said
    losses = [float(loss) for loss in said.splitlines()[0].split(", ")]
    at_fork, at_end = losses[6], losses[-1]
    assert at_end < at_fork - 0.02, "the cooldown lowers the loss"
    assert "sharpness at the end" in said
