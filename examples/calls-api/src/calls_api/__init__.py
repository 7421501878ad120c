"""Example service: starts, ends and lists voice calls over HTTP."""
