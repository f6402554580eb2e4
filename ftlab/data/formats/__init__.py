"""Rows of every format -> canonical records.

A canonical conversation is a list of ``{"role", "content"}`` messages (an assistant's may carry ``tool_calls``) with
optional ``tools``; a text is a string. A row that cannot become one raises :class:`RowError` with the reason.
"""

from ftlab.data.formats.columns import Columns
from ftlab.data.formats.converters import COLUMNS, CONVERTERS
from ftlab.data.formats.records import Conversation, Labelled, Message, Pair, Prompt, Record, RowError, Text
from ftlab.data.formats.turns import TAGS

__all__ = [
    "COLUMNS",
    "CONVERTERS",
    "TAGS",
    "Columns",
    "Conversation",
    "Labelled",
    "Message",
    "Pair",
    "Prompt",
    "Record",
    "RowError",
    "Text",
]
