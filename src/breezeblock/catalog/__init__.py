"""The catalog: every row that Breezeblock remembers. The only room that speaks SQL.

Functions take a `sqlalchemy.Connection` that is already in a transaction, so that a caller composes
several of them into the one transaction that a promise needs (`database.Database.write`).
"""
