"""Tasks drawn from a formula: regressions, classifications and mixtures with known answers."""
