"""Retrieval: passage vectors, dense indexes, BM25, fusion of rankings, and run files."""
