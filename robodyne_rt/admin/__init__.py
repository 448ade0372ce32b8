"""Commands for the technician: looking after a server's data, with the server running or not."""
