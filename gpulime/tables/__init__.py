"""Rows of tables: columns, bins, neighbourhoods and the rows passed to a model."""
