"""Adapters: small trained modules on one frozen backbone."""
