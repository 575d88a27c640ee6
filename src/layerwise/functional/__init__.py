"""Formulas as pure functions, each stated once (E01–E13)."""
