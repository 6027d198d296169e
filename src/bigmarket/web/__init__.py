"""The pages that bigmarket itself serves."""

DEMO_ACTIVITY = 100301
DEMO_USER = "xiaofuge"
