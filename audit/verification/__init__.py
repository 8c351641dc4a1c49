"""Verification of the audit log (`manage.py verify_audit`): each module holds one thing that is checked.

`entries`, `subjects` and `spans` know nothing of Django: they run in processes of their own.
"""
