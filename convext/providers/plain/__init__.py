"""Other ways through torch's own operators, for CPUs: records that need no compiler."""
