"""What a picture becomes: codes, features and the networks that make them."""

__version__ = "0.1.0"
