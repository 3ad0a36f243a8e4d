"""Images: files that hold a disk's bytes. This room knows formats and bytes, nothing of volumes.

Functions here work on open files and let the kernel's OSError pass; opening, durability and the
translation of errors belong to the rooms above.
"""
