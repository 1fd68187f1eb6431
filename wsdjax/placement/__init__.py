"""Where arrays live: the mesh, and what is divided among its devices."""
