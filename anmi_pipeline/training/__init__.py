"""Training: losses on Elo lists, the map, encoder, cross-encoder and feature trainers, checkpoints."""
