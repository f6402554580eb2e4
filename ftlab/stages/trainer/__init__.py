"""What all stages share: the packed forward, the trainer around it, its checkpoints and counters."""
