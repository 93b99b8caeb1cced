"""First-stage retrieval: runs, fusion, candidate pools and nearest-neighbour indexes.

Belongs here: whatever turns a corpus and queries into ranked lists, and ranked lists into candidate pools. Does not: judging,
training and metrics, which start from these pools, and storage, which is the caller's.
"""
