"""Update rules from a formula: gradient descent, Adam, Newton, and what wraps them."""
