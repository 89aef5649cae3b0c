"""Disks: claiming and wiping them, their partition tables, file systems, loop devices, and the copy engine.

Nothing here knows Ganeti or an image's meaning; :mod:`osprovider.deploy` puts the parts together.
"""
