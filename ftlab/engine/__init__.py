"""Running a plan: phases, checkpoints, progress, trackers."""
