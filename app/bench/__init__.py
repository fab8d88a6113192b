"""`launch.py bench`: how long the assistant takes to answer, and how fast its speech models are."""
