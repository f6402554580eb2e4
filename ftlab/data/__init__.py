"""Rows -> canonical records -> text -> token ids and label mask -> packed rows -> batches, and the ledger of it all."""
