"""The composition root: the server's life, and its health."""
