"""Evaluation without torch: measures, significance tests and tables for runs."""
