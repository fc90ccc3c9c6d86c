"""How things are found: codes find a pool, features rank it."""
