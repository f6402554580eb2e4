"""``ftlab serve``: runs behind an OpenAI-compatible endpoint, by an engine that is there already, and on a page."""
