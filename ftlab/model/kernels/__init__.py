"""Layers of a model that other packages compute, put in place of its own: in that model, and in no other."""
