"""Images: whatever one is made from becomes a template, once, and the store keeps templates for deployment.

``sources`` finds or fetches its files and ``builder`` lays it from packages; ``archive`` reads trees and ``diskimage``
disks; ``built`` and ``foreign`` make a template of these, ``prepare`` does what all templates have in common, and
``store`` keeps them.
"""
