"""From encoded samples to packed rows on disk, and to batches."""
