"""The Ganeti OS interface: from the environment of a script to a typed request, and what each script owes Ganeti."""
