"""Measurements beside a peer. Nothing here is a test, and no figure decides whether a build passes."""
