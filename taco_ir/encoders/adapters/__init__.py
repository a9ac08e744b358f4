"""Adapters: small trained modules on a frozen backbone."""
