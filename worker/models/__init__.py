"""Feature extractors: the networks whose parameters a hypernetwork generates."""
