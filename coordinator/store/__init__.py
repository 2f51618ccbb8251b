"""Every query, a module for each subject.

Lock order. Two transactions that wait for each other's rows are a deadlock: PostgreSQL ends one of
them. So every transaction takes the locks that it needs in this order, whatever it does:

    federation, client, token, round, blob, assignment, update or weights

and those of several rows of one table in order of their keys. ``lock``, ``lock_running`` and
``lock_open`` take a row's lock ahead of the change that it is for. Rows that a transaction inserts
have no place in the order, since nobody else sees them. SQLite has one lock for all.
"""
