"""Golden digests of a small dataset."""
