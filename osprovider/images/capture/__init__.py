"""Images of systems that run: the disk of an instance, without what makes it that instance."""
