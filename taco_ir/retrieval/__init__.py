"""Retrieval: vectors and indexes, dense search, BM25, fusion, and the runs that they write."""
