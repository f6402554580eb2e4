"""What became of every row and token."""
