"""A run's programs on devices that are not here, by their own compilers."""
