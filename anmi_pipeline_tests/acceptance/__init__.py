"""Small versions of the acceptance scripts: the same code on a tiny made-up collection."""
