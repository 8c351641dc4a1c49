"""Random faults on a running TaskPulse, and the proof that its audit log is whole afterwards.

    python -m tests.chaos --faults 200 --seed 7

A real stack (`manage.py up` with a second relay and a second consumer) is written to over the API, by SQL and by bulk
operations, while its processes are killed and frozen, its connections cut and its topic filled with copies and
forgeries. At the end every change that somebody saw acknowledged must be in the log, once, in order.
"""
