"""What is measured, how, and what comes of it. Installed as convext.benchmarks; nothing in convext imports it."""
