"""Encoders whose memory goes on: a sequence is read in pieces, and asked at any prefix."""
