"""The guest protocol on real file systems, behind both of its backends."""
