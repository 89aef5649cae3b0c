"""Customization: what hooks are, what they get, in which order they run."""
