"""A workdir in tables, figures and a page."""
