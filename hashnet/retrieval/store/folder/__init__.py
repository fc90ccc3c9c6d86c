"""The index as a folder on disk."""
