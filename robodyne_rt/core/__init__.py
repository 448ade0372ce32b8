"""The verbs: pure state machines. Bytes, data and `now` go in, decisions come out; no await, no socket, no clock."""
