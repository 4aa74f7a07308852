"""The policy: loading, adapters, scoring, shards."""
