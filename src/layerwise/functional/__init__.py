"""Formulas as pure functions, each stated once (E01–E18). docs/formulas.md leads from each formula to its code and
test."""
