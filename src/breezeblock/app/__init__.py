"""The process: the one place where configuration becomes objects and objects become a service."""
