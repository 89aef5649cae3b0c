"""The shipped hooks on a real Debian, and what its own programs make of what they wrote."""
