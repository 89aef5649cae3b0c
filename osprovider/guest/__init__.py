"""The guest's file system: one protocol, two backends: mounted on the node, or in the libguestfs appliance."""
