"""What an index keeps, and where: a folder, or a table of ClickHouse."""
