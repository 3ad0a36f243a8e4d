"""What each operation does: work in durable steps, an undo, and what is published at its end.

`run.execute` is the one course that every operation takes; `verbs` is the table of what differs.
"""
