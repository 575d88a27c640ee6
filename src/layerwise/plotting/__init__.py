"""Drawings, as SVG and PNG: charts, confusion matrices, sheets of images. Pure functions, shared by inspect, report
and labs.

Every drawing is deterministic, keeps its text as text, and uses colors that color-blind readers tell apart.
"""
