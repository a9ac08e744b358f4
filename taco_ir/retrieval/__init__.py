"""Vectors and words to ranked passages."""
