"""Clients of the server, in Python."""
