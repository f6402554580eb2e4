"""Model folders as they lie on the disk: what their files say, and whether they are whole. Imports no torch."""
