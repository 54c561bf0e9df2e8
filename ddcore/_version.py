"""The version of ddcore."""

__version__ = "0.1.0"
