"""The commit that is tested: what samples and turns are drawn by."""

import os
import subprocess
from pathlib import Path


def number() -> int:
    """The first digits of the commit's name; 0 where there is no repository."""
    for variable in ("GITHUB_SHA", "CI_COMMIT_SHA"):
        if variable in os.environ:
            return int(os.environ[variable][:8], 16)
    git = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(git, cwd=Path(__file__).parent, capture_output=True, text=True, check=False).stdout
    return int(commit[:8] or "0", 16)
