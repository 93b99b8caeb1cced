"""Serving room: the winning system as a folder that answers queries, and as an MLflow model.

Belongs here: the search package, the pipeline that reads it, its MLflow flavour. Does not: training, tuning and choosing the
winner. Nothing here calls an LLM.
"""
