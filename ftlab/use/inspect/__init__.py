"""``ftlab inspect``: rows as the model will see them, or saw them."""
