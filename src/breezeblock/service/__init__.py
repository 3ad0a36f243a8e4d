"""The promises: what the API, the command and the console may ask for.

Each function is one promise kept in one transaction: the state is compared and set together with the
operation that owns it, quota is taken, the operation is queued; then the worker is woken.
"""
