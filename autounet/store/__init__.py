"""Files that survive anything: publish, manifest, lock, cache, weights, checkpoints."""
