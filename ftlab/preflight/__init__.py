"""Will it run, told before torch is imported."""
