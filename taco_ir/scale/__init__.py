"""Divides work among workers: units of work, and engines that run units on one machine or several machines."""
