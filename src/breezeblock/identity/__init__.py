"""Who is asking: users, projects, passwords and tokens for one machine, without a Keystone.

Tokens are random and opaque; only their SHA-256 is stored. Passwords are stored as scrypt. The rest of
the service sees a `Caller` and never learns how it was found out.
"""
