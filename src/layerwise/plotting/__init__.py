"""Drawings, as SVG and PNG: charts, confusion matrices, sheets of pictures. Pure functions, shared by inspect, report
and labs.

Every drawing is deterministic, keeps its text as text, and uses colours that colour-blind readers tell apart.
"""
