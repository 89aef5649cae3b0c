"""The OS provider and image pipeline that Ganeti installs its instances with."""

__all__ = ["__version__"]

__version__ = "0.1.0"
