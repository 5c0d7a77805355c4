"""The benchmark of SubNetAct: ``make bench-subnetact``."""
