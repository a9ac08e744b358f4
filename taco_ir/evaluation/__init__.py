"""Runs and topics -> measures, significance and tables; no torch in here."""
