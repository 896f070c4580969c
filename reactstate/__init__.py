"""Typed, versioned, reactive, durable state containers."""

__version__ = "0.1.0"
