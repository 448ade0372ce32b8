"""Fakes for tests of one part: a clock and a loop that are moved by hand, a database in memory that fails when told to.

Nothing of the server imports this.
"""
