"""Starts what the end-to-end tests talk to: the gateway's release binary, an independent emulator, a scripted upstream."""
