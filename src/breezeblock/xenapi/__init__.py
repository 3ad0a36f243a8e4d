"""XenAPI: the wire, sessions, records, a mirror kept by events, tasks, transfers, SRs of every kind."""
