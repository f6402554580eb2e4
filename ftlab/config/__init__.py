"""From the command line to a validated, frozen :class:`ftlab.schema.Run`. Nothing here imports torch."""
