"""The run directory: the only hand-over between training and everything after it."""
