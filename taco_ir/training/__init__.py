"""Batches to checkpoints: the loss, the loop, what survives a kill."""
