"""Pytest plugin and tools: real PostgreSQL, Valkey and NATS servers from wheels, and faults for them."""

__all__: list[str] = []
