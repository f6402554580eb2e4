"""From records to token ids and marks of what is trained: templates, tokenizers, truncation."""
