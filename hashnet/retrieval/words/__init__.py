"""Search in words: ways from a text to images of an index, and one order of what they find."""
