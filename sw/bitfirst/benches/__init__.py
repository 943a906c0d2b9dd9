"""Measurements that `bitfirst bench` prints; each function returns a dictionary with the keys of the design."""
