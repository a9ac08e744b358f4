"""Runs and topics to measures, significance tests and tables, without torch."""
