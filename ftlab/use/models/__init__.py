"""Models of runs that a command works with: which are meant, what is changed of their configs, what they answer."""
