"""What is measured of learners and baselines: errors, distances, seconds and bytes."""
