"""Error hierarchy with stable codes, retryability, and mapping of foreign exceptions."""

__all__: list[str] = []
