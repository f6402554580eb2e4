"""A Slurm of this machine's own, and what runs on it."""
