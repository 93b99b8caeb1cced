"""Train rerankers and retrievers from pairwise judgments, with every artifact's lineage on record."""

__version__ = "0.1.0"
