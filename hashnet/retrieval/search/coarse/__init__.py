"""Exact Hamming search, by the way that costs least."""
