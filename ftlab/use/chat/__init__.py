"""``ftlab chat``: a conversation in the terminal with what runs have trained, and with what they began with."""
