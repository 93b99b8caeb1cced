"""Compiled loops of the rating room: graphs, links, Newton steps, standard errors.

Belongs here: numba functions on flat arrays. Does not: input messages, threads and frames (`fit.py`, `elo.py`). Import these
modules inside functions: numba takes half a second.
"""
