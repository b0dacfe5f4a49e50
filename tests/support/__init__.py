"""Servers, programs and clients that tests share."""
