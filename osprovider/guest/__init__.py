"""The guest's file system: one protocol, two backends: mounted on the host, or in the libguestfs appliance."""
