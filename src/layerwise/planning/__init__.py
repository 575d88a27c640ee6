"""From a request to a plan (resolve.py), and from a plan to a network and its rules (build.py)."""
