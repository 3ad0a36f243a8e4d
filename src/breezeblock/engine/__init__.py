"""Durable execution: operations that outlive the process that runs them.

`port` says what the rest may expect; `dbos_engine` fulfils it and is the only file that knows DBOS;
`dispatcher` hands it the queued operations of the catalog; `lease` keeps two processes from being the
same executor.
"""
