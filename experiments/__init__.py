"""What a run is: entry points, configs, figures and the report."""
