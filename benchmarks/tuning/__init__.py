"""Writes the tables by which "auto" chooses (convext/choice/tables)."""
