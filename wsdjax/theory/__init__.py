"""Theory beside the measurements."""

from wsdjax.theory.convex import best_base_rate, convex_bound, implied_distance
