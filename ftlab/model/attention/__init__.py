"""Attention over packed rows without a mask: each segment of a row by itself, with the prefix that it shares."""
