"""Checks of single values of the configuration; see :mod:`osprovider.config.schema`."""
