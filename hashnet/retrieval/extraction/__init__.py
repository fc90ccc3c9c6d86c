"""From lists of images to Parquet shards, on one machine or many."""
