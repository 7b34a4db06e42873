"""`python -m convext`: one module a command, and what commands share."""
