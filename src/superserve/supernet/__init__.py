"""SubNetAct: run any subnet of a weight-shared network in place. Torch lives here."""
