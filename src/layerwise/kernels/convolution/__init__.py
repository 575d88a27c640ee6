"""Convolutions by Winograd's transforms, compiled for the processor's vectors."""
