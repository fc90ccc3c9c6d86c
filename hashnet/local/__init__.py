"""Local features: places of an image, each with a descriptor, and regions that stand out."""
