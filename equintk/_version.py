"""The version of the library, which its files on disk carry."""

__version__ = "0.1.0"
