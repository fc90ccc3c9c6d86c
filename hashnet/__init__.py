"""What a picture becomes: codes, features and the networks that make them."""

from hashnet.version import __version__ as __version__
