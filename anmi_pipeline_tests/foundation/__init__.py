"""Tests of the foundation: digests, store, records, lineage, tracking, tables, settings."""
