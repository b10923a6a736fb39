"""The store: a directory of immutable Parquet shards, its readers and its checks."""
