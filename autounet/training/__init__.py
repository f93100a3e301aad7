"""Training: samples, loader, schedule, loop, checkpoints of a run, records."""
