"""Generation and metrics, used while training and after it."""
