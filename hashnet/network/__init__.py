"""The network: its description, its weights, the files it travels in, and what runs it."""
