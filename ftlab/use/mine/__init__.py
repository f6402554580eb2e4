"""``ftlab mine``: from a git repository to training data."""
