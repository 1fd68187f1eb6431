"""Training as pure functions: state, optimizer, step, averages, and what they cost."""
