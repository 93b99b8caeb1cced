"""Evaluation room: metrics, statistics, inference tuning, the leaderboard and its plots.

Belongs here: everything that turns cached scores and relevance labels into figures with intervals. Does not: computing scores
(`retrieval/`, `training/`, `reranking/`), storing them (`defs/`) and printing them (`cli.py`).
"""
