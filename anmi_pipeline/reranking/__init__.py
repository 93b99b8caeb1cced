"""Scoring candidate pools: learned fusion on retrieval features, and cross-encoders."""
