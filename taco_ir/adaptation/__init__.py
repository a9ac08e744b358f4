"""Adaptation: training the query side of a frozen encoder on new tasks, for an index that stays as it is."""
