"""The version, for whoever needs it before the package is complete."""

__version__ = "0.2.0"
