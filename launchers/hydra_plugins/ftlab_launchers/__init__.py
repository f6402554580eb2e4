"""Hydra launchers: where the jobs of a sweep run."""
