"""``ftlab import``: a training config of LLaMA-Factory or TRL as an experiment."""
