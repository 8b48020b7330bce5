"""Linear solvers that see a matrix through its products alone."""
