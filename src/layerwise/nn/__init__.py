"""Plain modules that know nothing of tasks, rules or files."""
