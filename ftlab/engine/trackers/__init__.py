"""Where a run is followed beside its ``metrics.jsonl``: TensorBoard, Weights & Biases, MLflow; several at once.

``metrics.jsonl`` is the record, and a tracker a view of it: what is missing or too much there when a run goes on is
made good from the file.
"""
