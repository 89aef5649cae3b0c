"""Where image files come from, found or fetched, and verified."""
