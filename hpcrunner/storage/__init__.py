"""Artifact stores, one file each, and the archives that travel through them."""
