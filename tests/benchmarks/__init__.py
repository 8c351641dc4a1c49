"""What `make bench` runs: TaskPulse beside other ways to do the same work, in one run on one machine."""
