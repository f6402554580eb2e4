"""The model that a run trains or has trained: its tokenizer and template, how it is built, what it starts from."""
