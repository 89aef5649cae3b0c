"""The Ganeti OS interface: from the environment of a script to a typed request and back, and what hypervisors do."""
