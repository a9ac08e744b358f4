"""Adaptation: training the query side of a frozen encoder on new tasks, without changes to an existing index."""
