"""How weights change: one file per learning rule, behind one contract."""
