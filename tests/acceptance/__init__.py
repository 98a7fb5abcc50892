"""The product as a user runs it: whole control planes, judged by the world outside them."""
