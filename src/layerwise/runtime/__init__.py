"""What a run runs on: device, threads, precision routes, processes and random draws.

Flags are the training run's: they are set for its length, recorded, restored at its end and taken up again on resume.
"""
