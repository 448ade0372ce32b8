"""robodyne-rt: the real-time server of a robot restaurant."""

__version__ = "0.1.0"
