"""Divides work among several workers: units of work, and engines that run them on one machine or many."""
