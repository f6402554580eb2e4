"""Jobs of a Slurm cluster: their options, their script, their states, and the commands of Slurm."""
