"""What a run runs on: device, threads, precision, processes, random numbers and files.

Compute settings belong to the training run: they are set for its length, recorded, restored at its end, and used again
on resume.
"""
