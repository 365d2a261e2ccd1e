"""Bytes to values and back: both ends of a channel import the same module."""
