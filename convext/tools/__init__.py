"""What torch's tools want to know of operators and layers: counters, exporters, sharding, checkpoints."""
