"""What is known about the current unit of work, W3C Trace Context, and operations to observe."""

__all__: list[str] = []
