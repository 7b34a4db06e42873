"""Metadata lives in pyproject.toml; this file is for the compiled library only."""

from setuptools import setup

setup()
