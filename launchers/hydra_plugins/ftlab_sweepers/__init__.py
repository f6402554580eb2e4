"""Hydra sweepers: which jobs a sweep has."""
