"""Images: building them, and the store that keeps them prepared as templates."""
