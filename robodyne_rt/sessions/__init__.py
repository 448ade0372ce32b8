"""What outlives a connection: whose it is, where its answers go, who is there."""
