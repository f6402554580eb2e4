"""``ftlab evaluate``: what a run has learned, in numbers, beside its base or other runs."""
