"""Queries to ranked passages: vectors and indexes, dense search, BM25, fusion, and the runs they write."""
