"""Volumes in object stores, and the network block device through which they are used."""
