"""Kinds of tasks that an encoder is trained on: one file each."""
