"""Which process this is, of how many, and on which devices."""
