"""The store: a directory of immutable Parquet shards, and all that reads and checks it."""
