"""The backend in memory: the reference of the port, and what tests of flows run against."""

from .backend import MemoryBackend

__all__ = ["MemoryBackend"]
