"""Adapters, small trained modules on one frozen backbone: what they are, where they go, and how a folder keeps them."""
