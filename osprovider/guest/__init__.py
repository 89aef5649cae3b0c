"""The guest's file system, behind one protocol with two backends: mounted on the host, or in the libguestfs appliance."""
