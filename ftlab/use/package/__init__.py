"""``ftlab package``: what a run has trained as an archive that works elsewhere, and the check of such an archive."""
