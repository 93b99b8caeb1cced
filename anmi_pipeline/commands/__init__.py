"""Groups of `anmi` commands, one module each."""
