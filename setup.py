"""Lets tools that predate PEP 660 install the project; all metadata is in pyproject.toml."""

from setuptools import setup

setup()
