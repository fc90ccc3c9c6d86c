"""From images to codes and features."""
