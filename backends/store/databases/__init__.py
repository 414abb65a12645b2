"""The databases the store can be kept in, each behind the port of `base`."""

__all__: list[str] = []
