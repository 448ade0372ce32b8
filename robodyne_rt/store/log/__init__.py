"""The change log: reading it, following it, keeping it small."""
