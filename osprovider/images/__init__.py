"""Images: whatever one is made from becomes a template, once, and the store keeps templates for deployment.

``sources`` finds or fetches its files and ``builder`` lays it from packages; ``archive`` reads trees and ``diskimage``
disks; ``prepare`` makes the template of any of them, with its ``manifest``, and ``store`` keeps it.
"""
