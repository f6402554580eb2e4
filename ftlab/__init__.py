"""ftlab: a Hydra-configured experiment framework for fine-tuning large language models."""

__version__ = "0.1.0"
