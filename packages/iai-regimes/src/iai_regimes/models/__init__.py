"""Networks and solvers to use with a regime; none is needed by one."""
