"""Read a collection: documents, queries and relevance grades, from wherever they lie, into the tables of `tables.py`.

Belongs here: the source settings, one reader per format, split assignment and the checks on what was read. Does not: retrieval,
storage or Dagster. Readers only read: they write nothing.
"""
