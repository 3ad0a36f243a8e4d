"""XenAPI: the wire, the session, typed records, a mirror kept by events, tasks, transfers, SRs of every kind."""
