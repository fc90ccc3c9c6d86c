"""Reading the text in pictures: where lines of it are, and which letters they have."""
