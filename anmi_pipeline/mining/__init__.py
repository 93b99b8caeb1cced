"""Which documents a model learns from: Elo-gap selection, other miners, the placebo and the curriculum's index lists."""
