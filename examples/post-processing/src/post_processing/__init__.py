"""Example worker: writes a transcript record for every call that ended, and tells of it."""
