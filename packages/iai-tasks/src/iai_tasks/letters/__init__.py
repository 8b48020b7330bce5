"""Letters drawn from fonts, as images and as clouds of points."""
