"""What resources look like on the wire.

Each view is a Struct with every field that any microversion has; a field left UNSET is not written. JSON
that a row already holds as text (metadata) goes out as it is.
"""
