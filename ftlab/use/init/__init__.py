"""``ftlab init``: from a file of rows to an experiment."""
