"""What is said on each wire: messages of devices, topics and sessions, WebSocket frames, and the one table of errors."""
