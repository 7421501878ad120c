"""What `common.db.postgres.migrations` is made of."""
