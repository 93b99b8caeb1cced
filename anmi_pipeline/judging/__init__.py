"""Judging: plans of comparisons, judges, the ledger of their verdicts, and reports on them.

Belongs here: everything between a candidate pool and the sealed `pairwise_judgments`. Does not: fitting ratings (`rating/`),
storage of artifacts and orchestration (`defs/`).
"""
