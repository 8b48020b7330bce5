"""The outer loop: updates of a learner's weights, and what a stopped run goes on from."""
