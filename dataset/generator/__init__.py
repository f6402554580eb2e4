"""Deterministic generator of everything under ``dataset/`` and of the corpus that ``models/tiny`` is made from.

Standard library only, but for the tokenizer (see :mod:`generator.tokenizer`). All randomness comes from
``random.Random`` with explicit seeds, and nothing iterates over a set: the output is the same on every machine.
"""
