"""What every part may use: terminal, progress, redaction of secrets, machine, git. Nothing here knows of runs."""
