"""From a query to hits: a code finds a pool, the feature ranks it, local features verify it."""
