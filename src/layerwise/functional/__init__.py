"""Formulas as pure functions, each stated once. docs/formulas.md links each formula to its code and test."""
