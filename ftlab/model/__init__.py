"""Loading a base model and its tokenizer, and choosing what of it trains."""
