"""Systems built from packages, in programs that are isolated."""
