"""Shares: directories that other machines serve, and those of this one."""
