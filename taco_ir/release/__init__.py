"""Releasing models: exports, small weights, model cards, pushes to a hub."""
